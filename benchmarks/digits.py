"""digits-cnn on every target: accuracy, agreement, negative flips, bits, size, latency; the README's first table.

Run: ``python benchmarks/digits.py [--write]``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import fxpress as fx
import readme
from fxpress.demo import Demo, demo


def table(done: Demo) -> str:
    head = ("target", "top-1", "agreement", "negative flips", "same bits", "size", "p50", "p90")
    rows = []
    for row in done.rows:
        quality = row.quality
        bits = "(float)" if row.same_bits is None else "yes" if row.same_bits else "NO"
        shares = (f"{share:.2%}" for share in (quality.accuracy, quality.agreement, quality.negative_flips))
        rows.append((f"`{row.target}`", *shares, bits, f"{row.bytes / 1024:.0f} KiB", f"{row.p50_ms:.3f} ms", f"{row.p90_ms:.3f} ms"))
    words = (
        f"{done.images} held-out digits, at batch {' and '.join(map(str, done.batches))}; float top-1 {done.rows[0].quality.original:.2%}; "
        f"{done.sqnr:.1f} dB against float scores, {done.saturated:.3%} of values saturated, {done.facts} range facts proved; "
        "latency at batch 1, 2 threads."
    )
    return f"{readme.markdown(head, rows)}\n\n{words}"


def widths() -> str:
    """Held-out top-1 of 8, 4 and 2 bits of weights (first and last layer 8), plain and with bias correction."""
    entry = fx.zoo.load("digits-cnn")
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    rows = [("float", f"{entry.evaluate(program.run):.2%}", "", f"{program.cost().weight_bytes / 1024:.0f} KiB")]
    for bits in (8, 4, 2):
        found = []
        for middle in ("", "correct-bias, "):
            text = f"fold-batch-norm, place-quantizers{{weight_bits={bits}, integer_only=true}}, {middle}to-integer"
            result = fx.Pipeline.parse(text).run(program, calibration=entry.calibration)
            found.append(f"{entry.evaluate(result.program.run):.2%}")
        with tempfile.TemporaryDirectory() as folder:
            size = fx.lower(result.program, "onnx:qlinear", out=Path(folder, "out")).payload_size
        rows.append((f"{bits} bits", *found, f"{size / 1024:.0f} KiB"))
    return readme.markdown(("weights", "top-1", "with `correct-bias`", "`onnx:qlinear` file (float: weights)"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = table(demo(Path(folder), repeats=options.repeats))
    text = f"{text}\n\n{widths()}"
    print(text)
    if options.write:
        readme.write("digits", text)


if __name__ == "__main__":
    main()
