"""acc ==> clamp(rne(clip(acc) * b / 2**c)) + zero point, on 16 channels in registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from ..physical import Buffer
from .operand import Expr, lanes


def shifted(product: Expr, c: int) -> Expr:
    """product / 2**c rounded half to even, int32; ``>>`` is arithmetic."""
    odd = T.bitwise_and(T.shift_right(product, lanes(c)), lanes(1))
    return T.shift_right(product + lanes((1 << (c - 1)) - 1) + odd, lanes(c))


def stored(value: Expr, attributes: Mapping[str, Any], result: Buffer) -> Expr:
    """Clamp to [qmin, qmax], add the zero point, narrow to the storage type."""
    clamped = T.max(T.min(value, lanes(attributes["qmax"])), lanes(attributes["qmin"]))
    return T.Cast(f"{result.dtype}x{LANES}", clamped + lanes(result.zero) if result.zero else clamped)


def finished(accumulator: Expr, rows: tuple[Expr, ...], attributes: Mapping[str, Any], result: Buffer) -> Expr:
    """What is stored for 16 accumulators; without `rows` (pre-clip low, high, multiplier) the accumulators themselves."""
    if not rows:
        return accumulator
    low, high, multiplier = rows
    clipped = T.min(T.max(accumulator, low), high) if attributes["clip"] else accumulator
    return stored(shifted(clipped * multiplier, attributes["shift"]), attributes, result)
