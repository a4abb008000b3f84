"""symbolic size ==> number, for given values of the symbols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import SymFloat, SymInt, Tensor


@dataclass(frozen=True)
class Example:
    """A symbol's value in the example that was captured, and its largest value (None: unbounded)."""

    size: int
    most: int | None


def concrete(value: Any, values: Mapping[str, int]) -> Any:
    """`value` with each symbol replaced by its number; what holds no symbol is returned as it is."""
    if not isinstance(value, (SymInt, SymFloat)):
        return value
    expression = value.node.expr
    if expression.is_symbol:  # the frequent case; substitution costs 100 us
        number: Any = values[str(expression)]
    else:
        number = expression.subs({symbol: values[str(symbol)] for symbol in expression.free_symbols})
    return int(number) if isinstance(value, SymInt) else float(number)


def concrete_size(size: Any, values: Mapping[str, int]) -> int:
    """An int or SymInt as a number, each symbol replaced by its value."""
    return int(concrete(size, values))


def largest(size: Any) -> int:
    """The most that an int or SymInt can be; 2**63 - 1 where a symbol in it has no maximum."""
    if isinstance(size, int):
        return size
    return int(min(size.node.shape_env.bound_sympy(size.node.expr).upper, (1 << 63) - 1))


def is_empty(value: Any) -> bool:
    """A tensor that has no elements at any size."""
    return isinstance(value, Tensor) and any(largest(size) == 0 for size in value.shape)


def symbols(values: Iterable[Any]) -> dict[str, Example | None]:
    """The symbols in the sizes and strides of fake values, each with its example; None for a size that data decide."""
    found: dict[str, Example | None] = {}
    for size in (size for value in values for size in ((*value.shape, *value.stride()) if isinstance(value, Tensor) else [value])):
        if isinstance(size, (SymInt, SymFloat)):
            known, limits = size.node.shape_env.backed_var_to_val, size.node.shape_env.var_to_range
            for symbol in size.node.expr.free_symbols:
                most = limits[symbol].upper
                found[str(symbol)] = Example(int(known[symbol]), int(most) if most < 2**31 else None) if symbol in known else None
    return found
