"""acc ==> clamp(rne(clip(acc) * b / 2**c)), an addition where one is fused, stored: `epilogue.finish` for one value of one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .operand import Call, Expr


def finish_one(call: Call, accumulator: Expr, outer: Sequence[Expr], channel: Expr) -> None:
    """Storage is signed or unsigned bytes, or int32, its zero point 0."""
    settings, output = call.attributes, call.output
    value = accumulator
    if "shift" in settings:
        table = call.constants[-1]
        column = channel % LANES if table.shape[1] == LANES else channel
        low, high, multiplier = (T.bind(table[row, column]) for row in range(3))
        value = _rounded((T.min(T.max(accumulator, low), high) if settings["clip"] else accumulator) * multiplier, settings)
    if "add" in settings:
        added = settings["add"]
        other = T.Cast("int32", call.inputs[1].load(outer, channel))
        value = _rounded(value * added["own"] + other * added["other"], added)
    output.store(T.Cast(output.spec.dtype, value), outer, channel)


def _rounded(given: Expr, settings: Mapping[str, Any]) -> Expr:
    c, product = settings["shift"], T.bind(given)
    odd = T.bitwise_and(T.shift_right(product, T.int32(c)), T.int32(1))
    shifted = T.shift_right(product + T.int32((1 << (c - 1)) - 1) + odd, T.int32(c))
    return T.bind(T.max(T.min(shifted, T.int32(settings["qmax"])), T.int32(settings["qmin"])))
