"""Kinds of changes are measured one after the other, each beside those that were kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from float_programs import captured, refusals
from fxpress_ir import Program
from fxpress_passes import Context
from fxpress_passes.fuse.faster import fastest
from fxpress_passes.latency import TimeRatio

RATIOS = {"a": TimeRatio(0.9, 0.85, 0.95), "b": TimeRatio(0.98, 0.9, 1.02), "c": TimeRatio(0.8, 0.7, 0.99)}
KINDS = [("a", [1, 2]), ("b", [3]), ("c", [4])]


class Changes:
    """Programs by the pieces that they change, and what was measured."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, ...], Program] = {(): captured(torch.relu, 2, 3)}
        self.asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def change(self, program: Program, pieces: Sequence[int]) -> Program:
        assert program is self.made[()]
        return self.made.setdefault(tuple(pieces), captured(torch.relu, 2, 3))

    def ratio(self, program: Program, parent: Program) -> TimeRatio:
        names = {id(made): pieces for pieces, made in self.made.items()}
        self.asked.append((names[id(program)], names[id(parent)]))
        (name,) = [name for name, pieces in KINDS if set(pieces) == set(names[id(program)]) - set(names[id(parent)])]
        return RATIOS[name]


def test_each_kind_is_held_to_the_best_program_so_far() -> None:
    changes, context = Changes(), Context()
    best = fastest(changes.made[()], KINDS, changes.change, changes, context)
    assert best is changes.made[1, 2, 4]
    assert changes.asked == [((1, 2), ()), ((1, 2, 3), (1, 2)), ((1, 2, 4), (1, 2))]
    assert refusals(context) == [
        "b: fused, the program takes 0.980 [0.900, 1.020] of its time; they stay apart; where nothing is measured all are fused"
    ]


def test_unmeasured_everything_is_changed() -> None:
    changes, context = Changes(), Context()
    assert fastest(changes.made[()], KINDS, changes.change, None, context) is changes.made[1, 2, 3, 4]
    assert not context.refusals
