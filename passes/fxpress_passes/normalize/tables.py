"""value that sizes decide ==> a constant that begins with it at every size, proved by computing it at every size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from fxpress_ir import Program
from fxpress_ir.analysis.sizes import concrete_size, symbols
from fxpress_ir.ops import SHAPE_OPERATORS
from fxpress_ir.signature import Dimension
from torch import Tensor, fx

from .at_sizes import Sizes, begins, computed, same_bits, steps_to
from .beginnings import keeps_beginnings
from .size_values import SizeValue, read_values

STAYS = "it stays computed"
FEW = 3
"""How many sizes stand for all along which a value does not count: it repeats there, whatever the size."""
_CHEAP, _CALL = 1 << 25, 1 << 10
"""What is computed without a thought, in elements, and what a call of an operator costs beside its elements."""


@dataclass(frozen=True)
class Repeat:
    """A dimension of ``block * symbol`` elements that is one block over and over: one row for each image, say, or 16 windows."""

    dimension: int
    block: int
    symbol: str


@dataclass(frozen=True)
class Table:
    """A value at the largest sizes; of dimensions that repeat one block."""

    values: Tensor
    repeats: tuple[Repeat, ...]


@dataclass(frozen=True)
class Unfit:
    """Why there is no table, and the way on."""

    reason: str
    way_on: str


class Tables:
    """Tables of a program's values.

    Args:
        values: what `size_values` found.
        max_bytes: of a value that is computed.
        max_checked: elements that may be computed to see that a value begins alike at every size.
    """

    def __init__(self, program: Program, values: Mapping[fx.Node, SizeValue], max_bytes: int, max_checked: int) -> None:
        self._program, self._values = program, values
        self._max_bytes, self._max_checked = max_bytes, max_checked
        dimensions = {size.name: size for spec in program.inputs for size in spec.shape if isinstance(size, Dimension)}
        self._dimensions = {symbol: dimensions[name] for symbol, name in program.symbols().items()}
        self._tables: dict[fx.Node, Table | Unfit] = {}
        self._checked: dict[tuple[fx.Node, frozenset[str]], Unfit | None] = {}

    def of(self, node: fx.Node) -> Table | Unfit:
        """The table of a value; along sizes that it neither counts nor varies along it is computed at a few alone."""
        if node not in self._tables:
            self._tables[node] = self._table(node)
        return self._tables[node]

    def _table(self, node: fx.Node) -> Table | Unfit:
        counted, sizes = self._values[node].counts, node.meta["val"].shape
        while True:
            found = self._at_most(node, counted)
            if isinstance(found, Unfit):
                return found
            repeats = tuple(repeat for d, size in enumerate(sizes) if (repeat := _repeat(found, d, size)) is not None)
            varies = frozenset(symbols(size for d, size in enumerate(sizes) if d not in [r.dimension for r in repeats])) - counted
            if not varies:
                for repeat in repeats:
                    found = found.narrow(repeat.dimension, 0, repeat.block)
                return Table(found.contiguous(), repeats)
            counted |= varies

    def _at_most(self, node: fx.Node, counted: frozenset[str]) -> Tensor | Unfit:
        """The value at the largest sizes, after every check."""
        unfit = self._unbounded(node, counted)
        if unfit is not None:
            return unfit
        largest = {symbol: range_[-1] for symbol, range_ in self._ranges(node, counted).items()}
        for used in steps_to(node, self._values):
            size = prod(concrete_size(s, largest) for s in used.meta["val"].shape) * used.meta["val"].element_size()
            if size > self._max_bytes:
                return Unfit(f"{used.name} would have {size} bytes at the largest sizes", f"give a smaller maximum, or max_bytes={size}")
        return self._differs(node, counted) or self._at(node, largest)

    def _unbounded(self, node: fx.Node, counted: frozenset[str]) -> Unfit | None:
        value = self._values[node]
        unknown = sorted(value.depends - self._dimensions.keys())
        if unknown:
            return Unfit(f"the size {unknown[0]} is not a dimension of an input", "make it one, or fix it")
        for dimension in (self._dimensions[symbol] for symbol in sorted(value.depends & counted)):
            if dimension.maximum is None:
                name = dimension.name
                return Unfit(f"it varies along {name!r}, which has no maximum", f"capture with Dim({name!r}, max=N)")
        return None

    def _ranges(self, node: fx.Node, counted: frozenset[str]) -> dict[str, range]:
        """The sizes of each dimension that decides a value."""
        found = {}
        for symbol in sorted(self._values[node].depends):
            dimension = self._dimensions[symbol]
            few = dimension.minimum + FEW - 1
            most = few if dimension.maximum is None else dimension.maximum if symbol in counted else min(few, dimension.maximum)
            found[symbol] = range(dimension.minimum, most + 1)
        return found

    def _differs(self, node: fx.Node, counted: frozenset[str]) -> Unfit | None:
        """Why the value at some sizes is not the beginning of that at the largest; None where it is at all."""
        key = node, counted & self._values[node].depends
        if key not in self._checked:
            self._checked[key] = self._difference(node, counted)
        return self._checked[key]

    def _difference(self, node: fx.Node, counted: frozenset[str]) -> Unfit | None:
        """It is computed at every size, unless that is much work and its operator keeps what holds for what it reads."""
        ranges, steps = self._ranges(node, counted), steps_to(node, self._values)
        largest, points = {symbol: sizes[-1] for symbol, sizes in ranges.items()}, prod(map(len, ranges.values()))
        work = points * sum(prod(concrete_size(s, largest) for s in step.meta["val"].shape) for step in steps)
        cheap = work + points * len(steps) * _CALL <= _CHEAP
        read = None
        if (not cheap or node.target in SHAPE_OPERATORS) and keeps_beginnings(node):
            read = next(filter(None, (self._differs(used, counted) for used in read_values(node) if used in self._values)), None)
            if read is None:
                return None
        if work > self._max_checked:
            reason = f"{node.name} at every size up to {self._named(largest)} is {work} elements"
            return read or Unfit(reason, f"give a smaller maximum, or max_checked={work}")
        own = self._first_failure(node, counted)
        return own and (read or own)

    def _first_failure(self, node: fx.Node, counted: frozenset[str]) -> Unfit | None:
        ranges = self._ranges(node, counted)
        whole: Tensor | None = None
        for point in product(*(reversed(sizes) for sizes in ranges.values())):  # the largest first
            sizes = dict(zip(ranges, point, strict=True))
            found = self._at(node, sizes)
            if isinstance(found, Unfit):
                return found
            whole = found if whole is None else whole
            if not begins(whole, found):
                return Unfit(f"{node.name} at {self._named(sizes)} is not the beginning of what it is at the largest sizes", STAYS)
        return None

    def _at(self, node: fx.Node, sizes: Sizes) -> Tensor | Unfit:
        try:
            return computed(self._program, steps_to(node, self._values), sizes)
        except (RuntimeError, IndexError, ValueError) as error:
            first = str(error).partition("\n")[0]
            return Unfit(f"it cannot be computed at {self._named(sizes)}: {first}", "give the dimension the range that the model takes")

    def _named(self, sizes: Sizes) -> str:
        return ", ".join(f"{self._dimensions[symbol].name}={size}" for symbol, size in sizes.items())


def _repeat(value: Tensor, dimension: int, size: Any) -> Repeat | None:
    if isinstance(size, int):
        return None
    factor, symbol = size.node.expr.as_coeff_Mul()
    if not (factor.is_Integer and symbol.is_symbol):
        return None
    blocks = value.reshape(*value.shape[:dimension], -1, int(factor), *value.shape[dimension + 1 :])
    alike = same_bits(blocks, blocks.narrow(dimension, 0, 1).expand_as(blocks))
    return Repeat(dimension, int(factor), str(symbol)) if alike else None
