"""A run of channels as a tensor of its own, in a buffer whose rows hold more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..pack import LANES
from .operand import Expr, Operand


@dataclass(frozen=True)
class Columns(Operand):
    """[..., count] in place of [..., first + count + others]; it is read only. `first` is a multiple of 16."""

    rows: Operand
    first: int

    @classmethod
    def of(cls, rows: Operand, first: int, count: int) -> Columns:
        return cls(rows.spec.with_channels(count, LANES), rows.memory, rows.symbols, rows, first)

    def load(self, outer: Sequence[Expr], channel: Expr) -> Expr:
        return self.rows.load(outer, self.first + channel)

    def load_lanes(self, outer: Sequence[Expr], channel: Expr, count: int = LANES) -> Expr:
        return self.rows.load_lanes(outer, self.first + channel, count)

    def flat(self) -> Expr:
        return self.rows.flat()

    def offset(self, outer: Sequence[Expr]) -> Expr:
        return self.rows.offset(outer) + self.first
