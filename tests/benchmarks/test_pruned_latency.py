"""benchmarks/pruned_latency.py: each configuration beside its parent, half of the MACs at the end, what a guard refuses left out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "passes"))
import fxpress as fx
import numpy as np
import pruned_latency
import torch
from encoder import Encoder
from float_programs import captured
from fxpress_backends.latency import Table
from fxpress_passes.latency import TimeRatio
from pruned_latency import HEAD, Recipe, configurations
from torch import Tensor

STEPS = ("prune-width{{ratio=0.25, align=4}}", "prune-channels{{macs={left}}}")


@cache
def encoder_program() -> fx.Program:
    """An encoder with half of its MACs in hidden units and more."""
    return captured(Encoder(hidden=96), 2, 6, 4)


class Small:
    """As a model of `latency_cpu`."""

    def inputs(self, batch: int, seed: int) -> tuple[Tensor]:
        return (torch.randn(batch, 6, 4, generator=torch.Generator().manual_seed(seed)),)

    def capture(self) -> fx.Program:
        return encoder_program()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pruned_latency.MODELS, "vit-s", Small())
    monkeypatch.setitem(pruned_latency.RECIPES, "vit-s", Recipe("vit-s", "remove-noops", STEPS))


def test_half_of_the_macs_are_left_and_each_step_is_a_configuration() -> None:
    dense, narrow, half = configurations("vit-s")
    assert (dense.macs, dense.parameters) == (1, 1)
    assert 0.5 < narrow.macs < 1
    assert half.macs == pytest.approx(0.5, rel=0.01)
    assert half.macs == half.program.cost().macs / dense.program.cost().macs
    assert narrow.name == "`prune-width{ratio=0.25, align=4}`"


def test_half_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pruned_latency.RECIPES, "vit-s", Recipe("vit-s", "remove-noops", ("prune-channels{{macs={left}, align=24}}",)))
    with pytest.raises(ValueError, match="of the MACs are left, not half"):
        configurations("vit-s")


def test_what_a_guard_refuses_is_no_configuration() -> None:
    class Guard:
        def ratio(self, program: fx.Program, parent: fx.Program) -> TimeRatio:
            slower = program.tensors["stem.weight"].shape != parent.tensors["stem.weight"].shape
            return TimeRatio(1.1, 1.1, 1.1) if slower else TimeRatio(0.9, 0.9, 0.9)

    dense, pruned = configurations("vit-s", Guard())
    assert dense.macs > pruned.macs
    assert pruned.name.startswith("`prune-channels")


def test_rows_hold_ratios_to_dense_and_to_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def bench(artifacts: Sequence[int], **options: object) -> Table:
        seconds = np.array([8.0, 5.0, 4.0])[:, None, None] * 1e-3 * np.ones((len(artifacts), 6, 5))
        return Table(tuple(f"macs {macs}" for macs in artifacts), seconds, (None,) * 3)

    monkeypatch.setattr(fx, "bench", bench)
    monkeypatch.setattr(pruned_latency, "deployed", lambda program, *_: program.cost().macs)
    dense, narrow, half = (dict(zip(HEAD, row, strict=True)) for row in pruned_latency.rows("vit-s", "onnx:float", 30, 2, guard=False))
    assert (dense["p50"], dense["MACs"], dense["dense / this [95 %]"]) == ("8.00 ms", "100.0%", "")
    assert narrow["dense / this [95 %]"] == narrow["parent / this [95 %]"] == "1.60 [1.60, 1.60]"
    assert (half["dense / this [95 %]"], half["parent / this [95 %]"]) == ("2.00 [2.00, 2.00]", "1.25 [1.25, 1.25]")
