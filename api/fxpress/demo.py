"""The main job on the embedded model: capture, compress, prove, lower for all that runs here, compare bits, measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.bench import bench
from fxpress_backends.registry import targets
from fxpress_ir import capture, verify
from fxpress_ir.analysis.saturation import saturation
from fxpress_passes.pipeline import Pipeline

from . import zoo
from .quality import Agreement, agreement, sqnr

PIPELINES = ("remove-noops, fold-constants, eliminate-dead-code, fold-batch-norm, place-quantizers{integer_only=true}", "to-integer")
"""`quantize-dyadic` in its two parts, because the simulated program between them is lowered too."""
BATCHES = (1, 7)
"""Batch sizes at which every held-out image is run through every artifact."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One target: quality on the held-out images, size of the payload in bytes, latency at batch 1 in ms.

    `same_bits` is None for a float target, whose outputs are not the integer program's.
    """

    target: str
    quality: Agreement
    same_bits: bool | None
    bytes: int
    p50_ms: float
    p90_ms: float


@dataclass(frozen=True)
class Demo:
    """What the demonstration measured.

    Attributes:
        report: the pipeline's report, as text.
        facts: how many statements about integer ranges were proved.
        images: held-out images, each run at every batch size of `batches`.
        sqnr: of the integer program's scores against the float program's, in dB.
        saturated: share of clamped values on the held-out images.
    """

    model: str
    report: str
    facts: int
    images: int
    batches: tuple[int, ...]
    sqnr: float
    saturated: float
    rows: tuple[Row, ...]

    @property
    def same_bits(self) -> bool:
        """Every integer target gave the integer program's bits on every image at every batch size."""
        return all(row.same_bits is not False for row in self.rows)


def demo(out: Path, model: str = "digits-cnn", *, repeats: int = 30, progress: Progress | None = None) -> Demo:
    """Run the main job; artifacts are written below `out`, one folder a target.

    Raises:
        FxpressError: whatever a step raises.
    """
    tell = progress or (lambda label, done, total: None)
    entry = zoo.load(model)
    original = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    simulated = Pipeline.parse(PIPELINES[0]).run(original, calibration=entry.calibration, progress=tell)
    result = Pipeline.parse(PIPELINES[1]).run(simulated.program, calibration=entry.calibration, progress=tell)
    sources = {"integer": result.program, "simulated": simulated.program, "float": original}
    certificate = verify(result.program)
    images, labels = entry.held_out
    scores, integer_scores = original.run(images)[0], result.program.run(images)[0]

    cards = [target for target in targets() if target.runs_here]
    artifacts = []
    for position, target in enumerate(cards):
        tell(f"lowering to {target.name}", position, len(cards))
        source = next(program for stage, program in sources.items() if stage in target.stages)
        folder = out / target.name.replace(":", "-")
        artifacts.append(lower(source, target.name, out=folder))
    outputs = []
    for position, artifact in enumerate(artifacts):
        tell(f"running {len(images)} images on {artifact.target}", position, len(cards))
        outputs.append({batch: _run(artifact, images, batch) for batch in BATCHES})
    table = bench(artifacts, repeats=repeats, inputs=entry.inputs, progress=lambda done, total: tell("measuring", done, total))
    rows = []
    for artifact, output, timed in zip(artifacts, outputs, table.rows, strict=True):
        integer = artifact.manifest["stage"] == "integer"
        same = all(torch.equal(found, integer_scores) for found in output.values()) if integer else None
        quality = agreement(scores, output[BATCHES[0]], labels)
        rows.append(Row(str(artifact.target), quality, same, artifact.payload_size, timed.p50_ms, timed.p90_ms))
    return Demo(
        model=model,
        report=f"{simulated.report}\n{result.report}",
        facts=len(certificate.facts),
        images=len(images),
        batches=BATCHES,
        sqnr=sqnr(scores, integer_scores),
        saturated=saturation(result.program, images).share,
        rows=tuple(rows),
    )


def _run(artifact: Artifact, images: torch.Tensor, batch: int) -> torch.Tensor:
    parts = [artifact.run(part.numpy())[0] for part in torch.split(images, batch)]
    return torch.from_numpy(np.concatenate(parts))
