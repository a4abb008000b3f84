"""acc ==> clamp(rne(clip(acc) * b / 2**c)), an addition where one is fused, + zero point: on 16 channels in registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .operand import Call, Expr, lanes, parameter


def shifted(product: Expr, c: int) -> Expr:
    """product / 2**c rounded half to even, int32; ``>>`` is arithmetic."""
    odd = T.bitwise_and(T.shift_right(product, lanes(c)), lanes(1))
    return T.shift_right(product + lanes((1 << (c - 1)) - 1) + odd, lanes(c))


def rounded(product: Expr, settings: Mapping[str, Any]) -> Expr:
    """`shifted`, clamped to [qmin, qmax]."""
    return T.max(T.min(shifted(product, settings["shift"]), lanes(settings["qmax"])), lanes(settings["qmin"]))


def store(call: Call, value: Expr, outer: Sequence[Expr], channel: Expr) -> None:
    """Add the zero point, narrow to the storage type, write."""
    spec = call.output.spec
    call.output.store_lanes(T.Cast(f"{spec.dtype}x{LANES}", value + lanes(spec.zero) if spec.zero else value), outer, channel)


def requantization(call: Call, channel: Expr) -> tuple[Expr, ...]:
    """Pre-clip low, pre-clip high and multiplier of 16 channels; nothing where no requantisation is fused."""
    tables = call.constants[-1:] if "shift" in call.attributes else ()
    return tuple(T.bind(parameter(table, row, channel)) for table in tables for row in range(3))


def finish(call: Call, accumulator: Expr, rows: tuple[Expr, ...], outer: Sequence[Expr], channel: Expr) -> None:
    """Store 16 accumulators, requantised by `rows` where a requantisation is fused; then added to the second input where an addition is."""
    settings = call.attributes
    if not rows:
        call.output.store_lanes(accumulator, outer, channel)
        return
    low, high, multiplier = rows
    clipped = T.min(T.max(accumulator, low), high) if settings["clip"] else accumulator
    value = rounded(clipped * multiplier, settings)
    if "add" in settings:
        added = settings["add"]
        other = call.inputs[1].integers(outer, channel)
        value = rounded(value * lanes(added["own"]) + other * lanes(added["other"]), added)
    store(call, value, outer, channel)
