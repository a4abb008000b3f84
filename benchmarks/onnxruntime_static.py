"""`onnx:qlinear` against ONNX Runtime's own static quantisation (QDQ, per channel, u8 activations, s8 weights).

Run: ``python benchmarks/onnxruntime_static.py [--models resnet18 resnet50 mobilenet_v2]`` (needs the extra ``models``).
Both quantise the same float program with the same calibration batches. The ratio is theirs over ours: above 1, ours is faster.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress.quality import sqnr
from fxpress_backends.bench import Command
from real_models import mobilenet_v2, resnet
from torch import nn

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": partial(resnet, 18),
    "resnet50": partial(resnet, 50),
    "mobilenet_v2": mobilenet_v2,
}


def batches(count: int = 4) -> list[tuple[torch.Tensor]]:
    return [(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(seed)),) for seed in range(count)]


def quantize_static(source: Path, out: Path) -> None:
    """Their tool at the settings that it recommends for x86 with VNNI."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, np.ndarray]] = ({"pixel_values": batch.numpy()} for (batch,) in batches())

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    prepared = out.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)


def compare(name: str, repeats: int, threads: int) -> tuple[str, ...]:
    program = fx.capture(MODELS[name](), (torch.randn(1, 3, 224, 224),), dynamic_shapes={"pixel_values": {0: fx.Dim("batch")}})
    integer = fx.Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}").run(program, calibration=batches()).program
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(99))
    with tempfile.TemporaryDirectory() as folder:
        floating = fx.lower(program, "onnx:float", out=Path(folder, "float"))
        ours = fx.lower(integer, "onnx:qlinear", out=Path(folder, "ours"))
        theirs = Path(folder, "theirs.onnx")
        quantize_static(floating.folder / "model.onnx", theirs)
        peer = Command("ONNX Runtime static QDQ", [sys.executable, str(Path(__file__).with_name("peer_onnxruntime.py")), str(theirs)])
        table = fx.bench([ours, peer], repeats=repeats, threads=threads, inputs=(x[:1],))
        qualities = [f"{quality:.1f} dB" for quality in (sqnr(program.run(x)[0], integer.run(x)[0]), theirs_quality(program, theirs, x))]
        print(f"== {name}: ours {qualities[0]}, theirs {qualities[1]}")
        print(table)
        return name, *(f"{row.p50_ms:.2f} ms" for row in table.rows), str(table.ratio(1, 0)), *qualities


def theirs_quality(program: fx.Program, path: Path, x: torch.Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return sqnr(program.run(x)[0], torch.from_numpy(session.run(None, {"pixel_values": x.numpy()})[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    head = ("network", "ours", "theirs", "time of theirs / ours [95 %]", "ours against float", "theirs against float")
    text = readme.markdown(head, [compare(name, options.repeats, options.threads) for name in options.models])
    print(text)
    if options.write:
        readme.write("onnxruntime-static", text)


if __name__ == "__main__":
    main()
