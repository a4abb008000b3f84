"""ResNet-18 at 224: same bits on every target, quality against float, file sizes, and latency ratios.

Run: ``python benchmarks/resnet18.py`` (needs the extra ``models``). Random weights, realistic batch-norm statistics.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress.quality import sqnr
from real_models import resnet

PIPELINE = "fold-batch-norm, quantize-dyadic{integer_only=true}"
INTEGER = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")


def compressed() -> tuple[fx.Program, fx.Program]:
    """ResNet-18 captured with a batch-1 example, and its integer program."""
    batch = fx.Dim("batch")
    program = fx.capture(resnet(18), (torch.randn(1, 3, 224, 224),), dynamic_shapes={"pixel_values": {0: batch}})
    calibration = [(torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(seed)),) for seed in range(4)]
    return program, fx.Pipeline.parse(PIPELINE).run(program, calibration=calibration).program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    program, integer = compressed()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {"onnx:float": fx.lower(program, "onnx:float", out=Path(folder, "onnx-float"))}
        for target in INTEGER:
            artifacts[target] = fx.lower(integer, target, out=Path(folder, target.replace(":", "-")))
        qualities = {}
        for batch in (1, 3):
            x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(100 + batch))
            scores, expected = program.run(x)[0], integer.run(x)[0]
            same = {target: bool(np.array_equal(artifacts[target].run(x)[0], expected.numpy())) for target in INTEGER}
            if not all(same.values()):
                raise SystemExit(f"bits differ: {same}")
            qualities[batch] = sqnr(scores, expected)
            share = fx.saturation(integer, x).share
            print(f"batch {batch}: SQNR {sqnr(scores, expected):.1f} dB, {share:.4%} saturated, same bits: {same}")
        for target, artifact in artifacts.items():
            print(f"{target}: payload {artifact.payload_size / artifacts['onnx:float'].payload_size:.1%} of the fp32 file")
        contenders = [artifacts[target] for target in ("onnx:float", "onnx:int", "onnx:qlinear", "tvm:native")]
        table = fx.bench(contenders, repeats=options.repeats, threads=options.threads, inputs=(torch.randn(1, 3, 224, 224),))
        print(table)
        for other in range(3):
            print(f"time of tvm:native / {contenders[other].target}: {table.ratio(3, other)}")
        if options.write:
            floating = artifacts["onnx:float"].payload_size
            rows = [
                (
                    f"`{c.target}`",
                    f"{timed.p50_ms:.2f} ms",
                    f"{timed.p90_ms:.2f} ms",
                    str(table.ratio(i, 0)),
                    f"{c.payload_size / floating:.1%}",
                )
                for i, (c, timed) in enumerate(zip(contenders, table.rows, strict=True))
            ]
            text = readme.markdown(("target", "p50", "p90", "time / fp32 in ONNX Runtime [95 %]", "file / fp32 file"), rows)
            words = "; ".join(
                f"at batch {batch}: {quality:.1f} dB, same bits on {', '.join(INTEGER)}" for batch, quality in qualities.items()
            )
            readme.write("resnet18", f"{text}\n\n{words}. {table.notes[0]}.")


if __name__ == "__main__":
    main()
