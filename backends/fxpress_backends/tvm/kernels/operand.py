"""A tensor inside a kernel: logical indices ==> the elements of its buffer, 16 channels at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from ..physical import NO_HALO, Buffer
from ..sizes import Extent, value

Expr = Any
"""A TIR expression or a Python integer."""


@dataclass(frozen=True)
class Operand:
    """A buffer's description and the TIR buffer that holds it; sizes are numbers, or expressions of the symbolic dimensions."""

    spec: Buffer
    memory: Any
    symbols: Mapping[str, Expr]

    @property
    def lead(self) -> Expr:
        """The size of dimension 0."""
        return value(self.spec.lead, self.symbols)

    @property
    def shape(self) -> tuple[Expr, ...]:
        """The logical sizes after the first, in the program's order."""
        return self._values(self.spec.shape)

    @property
    def outer(self) -> tuple[Expr, ...]:
        """The logical sizes between the first and the innermost physical one."""
        return self._values(self.spec.outer)

    @property
    def channels(self) -> Expr:
        """The stored elements of the innermost dimension, a multiple of 16."""
        return value(self.spec.innermost, self.symbols)

    @property
    def logical_channels(self) -> Expr:
        return value(self.spec.logical_innermost, self.symbols)

    @property
    def blocks(self) -> Expr:
        """How many times 16 channels are stored."""
        return self.channels // LANES

    @property
    def image_elements(self) -> Expr:
        """Stored elements for each index of dimension 0."""
        return prod(self._values(self.spec.middle)) * self.channels

    def _values(self, extents: Sequence[Extent]) -> tuple[Expr, ...]:
        return tuple(value(extent, self.symbols) for extent in extents)

    def index(self, outer: Sequence[Expr], channel: Expr) -> list[Expr]:
        """The physical index of ``[lead index, *outer logical indices]`` and a channel (or a ramp of channels)."""
        if self.spec.layout == "rows":
            return [*outer, channel]
        image, row, column = outer
        top, left, _, _ = self.spec.halo
        return [image, row + top, column + left, channel] if self.spec.middle else [image, channel]

    def load(self, outer: Sequence[Expr], channel: Expr) -> Expr:
        """One stored element."""
        return self.memory[tuple(self.index(outer, channel))]

    def store(self, value: Expr, outer: Sequence[Expr], channel: Expr) -> None:
        T.buffer_store(self.memory, value, self.index(outer, channel))

    def load_lanes(self, outer: Sequence[Expr], channel: Expr, count: int = LANES) -> Expr:
        """`count` stored channels from `channel` on."""
        return self.load(outer, T.Ramp(channel, 1, count))

    def store_lanes(self, value: Expr, outer: Sequence[Expr], channel: Expr, count: int = LANES) -> None:
        self.store(value, outer, T.Ramp(channel, 1, count))

    def integers(self, outer: Sequence[Expr], channel: Expr) -> Expr:
        """16 channels as int32 with the zero point taken off."""
        value = T.Cast(f"int32x{LANES}", self.load_lanes(outer, channel))
        return value - lanes(self.spec.zero) if self.spec.zero else value

    def words(self) -> Any:
        """The buffer as a flat one of 32-bit words; storage of 8 or 16 bits whose channels are whole words."""
        count = self.lead * prod(self._values(self.spec.middle)) * (self.channels // (2 if self.spec.dtype == "int16" else 4))
        return T.decl_buffer((count,), "int32", data=self.memory.data)

    def flat(self) -> Any:
        """The buffer as a flat one."""
        return T.decl_buffer((self.lead * self.image_elements,), self.spec.dtype, data=self.memory.data)

    def offset(self, outer: Sequence[Expr]) -> Expr:
        """Where the channels of a position start in `flat`."""
        position, *indices = self.index(outer, 0)
        for index, size in zip(indices, (*self._values(self.spec.middle), self.channels), strict=True):
            position = position * size + index
        return position


@dataclass(frozen=True)
class Call:
    """What a kernel gets: operands, constants as TIR buffers, its group's attributes, and the dimensions that stay symbolic."""

    inputs: tuple[Operand, ...]
    constants: tuple[Any, ...]
    output: Operand
    attributes: Mapping[str, Any]
    symbols: Mapping[str, Expr]

    def value(self, extent: Extent) -> Expr:
        return value(extent, self.symbols)


def lanes(value: int, count: int = LANES) -> Expr:
    return T.Broadcast(T.int32(value), count)


def parameter(table: Any, row: int, channel: Expr) -> Expr:
    """16 entries of one row of a per-channel table; a single vector serves every channel."""
    return table[row, T.Ramp(0 if table.shape[1] == LANES else channel, 1, LANES)]


def over(operand: Operand, body: Callable[[list[Expr]], None], inner: int = 0) -> None:
    """Run `body` for every position outside the channels and the last `inner` dimensions before them.

    The first two dimensions are split over the threads.
    """
    outer = operand.outer[: len(operand.spec.outer) - inner]
    first, rest = (outer[0], outer[1:]) if outer else (1, ())
    with T.parallel(operand.lead * first) as task:
        head = [task // first, task % first] if outer else [task]
        _nest(head, rest, body)


def over_lanes(output: Operand, body: Callable[[list[Expr], Expr], None]) -> None:
    """Run `body` for every 16 channels of every position."""

    def position(outer: list[Expr]) -> None:
        with T.serial(output.blocks) as block:
            body(outer, block * LANES)

    over(output, position)


def _nest(indices: list[Expr], extents: Sequence[Expr], body: Callable[[list[Expr]], None]) -> None:
    if not extents:
        body(indices)
        return
    with T.serial(extents[0]) as index:
        _nest([*indices, index], extents[1:], body)


def fill_halo(output: Operand) -> None:
    """Write the zero point around every image, for the convolutions that read it as padding."""
    if output.spec.halo == NO_HALO:
        return
    top, left, bottom, right = output.spec.halo
    height, width = (size + before + after for size, before, after in zip(output.spec.pixels, (top, left), (bottom, right), strict=True))
    channels = output.spec.channels
    zero = T.Cast(output.spec.dtype, T.int32(output.spec.zero))

    def fill(rows: range, columns: range) -> None:
        if not rows or not columns:
            return
        with T.serial(output.lead) as image, T.serial(len(rows)) as row, T.serial(len(columns) * channels) as element:
            index = [image, row + rows.start, element // channels + columns.start, element % channels]
            T.buffer_store(output.memory, zero, index)

    fill(range(top), range(width))
    fill(range(height - bottom, height), range(width))
    fill(range(top, height - bottom), range(left))
    fill(range(top, height - bottom), range(width - right, width))
