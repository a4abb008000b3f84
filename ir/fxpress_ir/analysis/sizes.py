"""symbolic size ==> number, for given values of the symbols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def concrete_size(size: Any, values: Mapping[str, int]) -> int:
    """An int or SymInt as a number, each symbol replaced by its value."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: values[str(symbol)] for symbol in expression.free_symbols}))
