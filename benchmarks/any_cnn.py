"""Same bits on every target at batch 1 and 3, quality and saturation: ResNet-50, MobileNetV2 and five small networks.

Run: ``python benchmarks/any_cnn.py [--models ...]`` (needs the extra ``models``). Random weights, realistic batch-norm
statistics; nothing is prepared for a model: ``fold-batch-norm, quantize-dyadic`` with ``integer_only``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress.quality import sqnr
from networks import NETWORKS, network
from real_models import mobilenet_v2, resnet
from torch import nn

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")
MODELS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "resnet-50": (partial(resnet, 50), "pixel_values", 224),
    "mobilenet-v2": (mobilenet_v2, "pixel_values", 224),
    **{name: (partial(network, name), "x", 32) for name in NETWORKS},
}


def images(batch: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def row(name: str) -> tuple[str, ...]:
    build, argument, size = MODELS[name]
    program = fx.capture(build(), (images(1, size, 0),), dynamic_shapes={argument: {0: fx.Dim("batch")}})
    calibration = [(images(4, size, seed),) for seed in range(4)]
    integer = fx.Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}").run(program, calibration=calibration).program
    same, qualities, shares = dict.fromkeys(TARGETS, True), [], []
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {target: fx.lower(integer, target, out=Path(folder, target.replace(":", "-"))) for target in TARGETS}
        for batch in (1, 3):
            x = images(batch, size, 100 + batch)
            expected = integer.run(x)[0]
            for target, artifact in artifacts.items():
                same[target] &= bool(np.array_equal(artifact.run(x)[0], expected.numpy()))
            qualities.append(sqnr(program.run(x)[0], expected))
            shares.append(fx.saturation(integer, x).share)
    equal = "all" if all(same.values()) else f"NOT {[target for target, ok in same.items() if not ok]}"
    return name, f"{min(qualities):.1f} dB", f"{max(shares):.4%}", equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        rows.append(row(name))
        print(*rows[-1], sep="  ", flush=True)
    if options.write:
        readme.write(
            "any-cnn", readme.markdown(("network", "SQNR, the lower of batch 1 and 3", "saturated", "targets with the same bits"), rows)
        )


if __name__ == "__main__":
    main()
