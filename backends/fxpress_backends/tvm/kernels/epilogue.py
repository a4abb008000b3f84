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
    """Pre-clip low, pre-clip high and multiplier of 16 channels; nothing where no requantisation is fused.

    Where floats do the work, the multiplier alone: ``b / 2**c``, exact.
    """
    tables = call.constants[-1:] if "shift" in call.attributes else ()
    if call.attributes.get("floats"):
        factor = T.Cast(f"float32x{LANES}", parameter(tables[0], 2, channel)) * _float(2.0 ** -call.attributes["shift"])
        return (T.bind(factor),)
    return tuple(T.bind(parameter(table, row, channel)) for table in tables for row in range(3))


def finish(call: Call, accumulator: Expr, rows: tuple[Expr, ...], outer: Sequence[Expr], channel: Expr) -> None:
    """Store 16 accumulators, requantised by `rows` where a requantisation is fused; then added to the second input where an addition is."""
    settings = call.attributes
    if not rows:
        call.output.store_lanes(accumulator, outer, channel)
        return
    if settings.get("floats"):
        _finish_in_floats(call, accumulator, rows[0], outer, channel)
        return
    low, high, multiplier = rows
    clipped = T.min(T.max(accumulator, low), high) if settings["clip"] else accumulator
    value = rounded(clipped * multiplier, settings)
    if "add" in settings:
        added = settings["add"]
        other = call.inputs[1].integers(outer, channel)
        value = rounded(value * lanes(added["own"]) + other * lanes(added["other"]), added)
    store(call, value, outer, channel)


_MAGIC = 3.0 * 2**22
"""Floats from here to 2**22 on either side are whole numbers, so a sum with it is rounded half to even by the adder; its bits
end in 22 zeros, so that those of the sum end in the whole number itself."""


def _finish_in_floats(call: Call, accumulator: Expr, factor: Expr, outer: Sequence[Expr], channel: Expr) -> None:
    """The same bits with a fused multiply-add for product and rounding, in the order that `floats_are_exact` asks for."""
    settings, spec = call.attributes, call.output.spec
    added = settings.get("add")
    value = _whole(T.Cast(f"float32x{LANES}", accumulator), factor, settings, 0 if added else spec.zero)
    if added:
        other = T.Cast(f"float32x{LANES}", call.inputs[1].integers(outer, channel)) * _float(added["other"] * 2.0 ** -added["shift"])
        total = _fma(value - _float(_MAGIC), _float(added["own"] * 2.0 ** -added["shift"]), other)
        value = _clamped(total + _float(_MAGIC + spec.zero), added, spec.zero)
    call.output.store_lanes(T.Cast(f"{spec.dtype}x{LANES}", T.reinterpret(f"int32x{LANES}", value)), outer, channel)


def _whole(x: Expr, factor: Expr, settings: Mapping[str, Any], zero: int) -> Expr:
    """clamp(rne(x * factor)) + zero + `_MAGIC`."""
    return _clamped(_fma(x, factor, _float(_MAGIC + zero)), settings, zero)


def _clamped(value: Expr, settings: Mapping[str, Any], zero: int) -> Expr:
    return T.max(T.min(value, _float(_MAGIC + settings["qmax"] + zero)), _float(_MAGIC + settings["qmin"] + zero))


def _fma(x: Expr, y: Expr, z: Expr) -> Expr:
    return T.call_llvm_pure_intrin(f"float32x{LANES}", "llvm.fma", x, y, z)


def _float(value: float) -> Expr:
    return T.Broadcast(T.float32(value), LANES)
