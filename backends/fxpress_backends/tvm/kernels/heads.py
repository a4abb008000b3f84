"""Heads as a dimension of their own, in a buffer whose rows hold all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..pack import LANES
from .operand import Expr, Operand


@dataclass(frozen=True)
class Heads(Operand):
    """[batch, heads, length, width] in place of [batch, length, first + heads * width]; the width is whole vectors."""

    rows: Operand
    first: int

    @classmethod
    def of(cls, rows: Operand, heads: int, first: int, width: int) -> Heads:
        spec = replace(rows.spec, shape=(heads, rows.spec.shape[0], width), innermost=width)
        return cls(spec, rows.memory, rows.symbols, rows, first)

    def _there(self, outer: Sequence[Expr], channel: Expr) -> tuple[list[Expr], Expr]:
        image, head, row = outer
        return [image, row], head * self.spec.channels + self.first + channel

    def index(self, outer: Sequence[Expr], channel: Expr) -> list[Expr]:
        return self.rows.index(*self._there(outer, channel))

    def load_lanes(self, outer: Sequence[Expr], channel: Expr, count: int = LANES) -> Expr:
        return self.rows.load_lanes(*self._there(outer, channel), count)

    def store_lanes(self, value: Expr, outer: Sequence[Expr], channel: Expr, count: int = LANES) -> None:
        self.rows.store_lanes(value, *self._there(outer, channel), count)

    def words(self) -> Expr:
        return self.rows.words()

    def flat(self) -> Expr:
        return self.rows.flat()

    def offset(self, outer: Sequence[Expr]) -> Expr:
        place, channel = self._there(outer, 0)
        return self.rows.offset(place) + channel
