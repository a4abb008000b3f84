"""A stack of linears with a billion float32 parameters: peak memory and time of each pass; linear in layers.

Run: ``python benchmarks/one_billion.py [--parameters 1e9]``. The caller keeps the float program, as a user comparing would.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import fxpress as fx
import torch
from torch import Tensor, nn

WIDTH = 4096
PIPELINE = "remove-noops, fold-constants, fold-batch-norm, quantize-dyadic{integer_only=true}"


class Stack(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def peak() -> int:
    """Most resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(layers: int) -> None:
    model = Stack(layers).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.mul_(3.0)  # keeps the activations' size from layer to layer
    x = torch.randn(8, WIDTH)
    before = peak()
    program = fx.capture(model, (x,), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    start = time.perf_counter()
    result = fx.Pipeline.parse(PIPELINE).run(program, calibration=[(x,)])
    with tempfile.TemporaryDirectory() as folder:
        seconds = time.perf_counter() - start
        artifact = fx.lower(result.program, "reference", out=Path(folder, "out"))
        lowered = time.perf_counter() - start - seconds
        floats, integers = program.cost().weight_bytes, artifact.payload_size
        bound = 1.3 * floats + integers + 2**30
        print(f"{layers} layers, {program.cost().parameters / 1e6:.0f} M parameters, float {floats / 2**30:.2f} GiB")
        print(f"  integer {integers / 2**30:.2f} GiB")
        print("  " + ", ".join(f"{step.name} {step.seconds:.2f} s" for step in result.report.steps) + f"; with instruments {seconds:.1f} s")
        print(f"  lowering {lowered:.1f} s")
        print(f"  peak {peak() / 2**30:.2f} GiB ({before / 2**30:.2f} before capture), bound {bound / 2**30:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=float, default=1e9)
    layers = max(1, round(parser.parse_args().parameters / (WIDTH * WIDTH + WIDTH)))
    measure(layers)


if __name__ == "__main__":
    main()
