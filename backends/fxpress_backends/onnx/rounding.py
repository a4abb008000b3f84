"""clamp(rne((acc + bias) * b / 2**c), qmin, qmax) on uint32: y = (u + ((u >> c) & 1)) >> c with u = p + 2**(c-1) - 1 + offset * 2**c.

Why u may carry the rounding term already when its parity is read: only in a tie does the parity matter, and then u is
p >> c followed by c ones, so that ``u >> c == p >> c``. The offset is even, which keeps the parity, and makes u positive,
because ONNX shifts unsigned integers only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from fxpress_ir.dyadic import round_half_even, saturation_bounds
from fxpress_ir.errors import BackendError
from fxpress_ir.ops import Interval
from numpy.typing import NDArray

from .walk import Walk

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Rounding:
    """Everything that is known at compile time; arrays have shape [1] or [channels].

    Attributes:
        low, high: the accumulator is clamped to them; None where interval arithmetic shows that it stays inside.
        multiplier: b, or a gain modulo 2**32.
        addend: bias * b + 2**(c-1) - 1 + offset * 2**c, modulo 2**32.
        c: the shift.
        ties: some accumulator may lie half-way between two results.
        clip: bounds of the shifted value, None where it cannot leave [qmin, qmax].
        surplus: what the shifted value exceeds the stored value by; a multiple of 256, which a cast to u8 drops, where it can be.
    """

    low: Integers | None
    high: Integers | None
    multiplier: Integers
    addend: Integers
    c: int
    ties: bool
    clip: tuple[int, int] | None
    surplus: int


def folds(bias: Integers, b: Integers, c: int, qmin: int, qmax: int) -> bool:
    """The clamp's bounds stay int32 when the bias, which is added after it, is taken off them."""
    low, high = saturation_bounds(b, c, qmin, qmax)
    limits = np.iinfo(np.int32)
    return bool((low - bias).max() <= limits.max and (high - bias).min() >= limits.min)


def plan(total: Interval, bias: Integers, b: Integers, c: int, qmin: int, qmax: int, zero_point: int) -> Rounding:
    """The cheapest exact form.

    Args:
        total: the interval of acc + bias, shape () or [channels].
        bias, b: shape [1] or [channels].
        zero_point: what the stored result adds; even.

    Raises:
        BackendError: the sum does not fit 32 unsigned bits (results wider than 16 bits).
    """
    bound_low, bound_high = saturation_bounds(b, c, qmin, qmax)
    least, most = np.clip(total.low, bound_low, bound_high), np.clip(total.high, bound_low, bound_high)
    p_least, p_most = int((least * b).min()), int((most * b).max())
    term = (1 << (c - 1)) - 1
    offset = zero_point
    while (offset << c) + p_least + term < 0 or qmax + offset < 0:
        offset += 256
    if p_most + term + 1 + (offset << c) >= 1 << 32:
        raise BackendError(f"a result in [{qmin}, {qmax}] with shift {c} needs more than 32 bits", way_on="use a 16-bit result and c <= 15")
    bottom, top = round_half_even(p_least, c), round_half_even(p_most, c)
    limits = np.iinfo(np.int32)
    return Rounding(
        low=None if bool((total.low >= bound_low).all()) else np.maximum(bound_low - bias, limits.min),
        high=None if bool((total.high <= bound_high).all()) else np.minimum(bound_high - bias, limits.max),
        multiplier=b,
        addend=(bias * b + term + (offset << c)) % (1 << 32),
        c=c,
        ties=_ties(np.maximum(np.abs(least), np.abs(most)), b, c),
        clip=None if qmin <= bottom and top <= qmax else (max(qmin + offset, 0), qmax + offset),
        surplus=offset - zero_point,
    )


def bounded(low: int, high: int, g: Integers, addend: Integers, c: int, qmin: int, qmax: int, zero_point: int) -> Rounding:
    """clamp(rne((x * g + addend) / 2**c)) for gains of any sign, where the sum is known to lie in [low, high].

    The sum and 2**c together stay below 2**31, so that an offset of 2**31 before the shift is enough.
    """
    term = (1 << (c - 1)) - 1
    offset = zero_point
    while (offset << c) + low + term < 0 or qmax + offset < 0:
        offset += 256
    if high + term + 1 + (offset << c) >= 1 << 32:
        offset = 1 << (31 - c)
    inside = qmin <= round_half_even(low, c) and round_half_even(high, c) <= qmax
    return Rounding(
        low=None,
        high=None,
        multiplier=g % (1 << 32),
        addend=(addend + term + (offset << c)) % (1 << 32),
        c=c,
        ties=True,
        clip=None if inside else (max(qmin + offset, 0), qmax + offset),
        surplus=offset - zero_point,
    )


def _ties(magnitude: Integers, b: Integers, c: int) -> bool:
    """acc * b is an odd multiple of 2**(c-1) for some |acc| <= magnitude: with b = odd * 2**k, the first is acc = 2**(c-1-k)."""
    even_part = b & -b
    return bool(((even_part < 1 << c) & (magnitude * even_part >= 1 << (c - 1))).any())


def emit(walk: Walk, accumulator: ir.Value, rounding: Rounding, axis: int, rank: int, dtype: ir.DataType) -> ir.Value:
    """The nodes: `accumulator` int32 of that rank, channels along `axis`; the result has the storage type `dtype`."""

    def spread(values: Integers, kind: type[np.generic]) -> ir.Value:
        shape = [1] * rank if values.size > 1 else []
        if shape:
            shape[axis % rank] = -1
        return walk.constant(values.astype(kind).reshape(shape))

    def unsigned(value: int) -> ir.Value:
        return walk.constant(np.uint32(value))

    x = accumulator
    if rounding.low is not None:
        x = walk.op("Max", x, spread(rounding.low, np.int32))
    if rounding.high is not None:
        x = walk.op("Min", x, spread(rounding.high, np.int32))
    x = walk.op("Cast", x, to=ir.DataType.UINT32)
    if not bool((rounding.multiplier == 1).all()):
        x = walk.op("Mul", x, spread(rounding.multiplier, np.uint32))
    x = walk.op("Add", x, spread(rounding.addend, np.uint32))
    c = unsigned(rounding.c)
    if rounding.ties:
        parity = walk.op("BitwiseAnd", walk.op("BitShift", x, c, direction="RIGHT"), unsigned(1))
        x = walk.op("Add", x, parity)
    x = walk.op("BitShift", x, c, direction="RIGHT")
    if rounding.clip is not None:
        x = walk.op("Clip", x, *map(unsigned, rounding.clip))
    if rounding.surplus and (dtype != ir.DataType.UINT8 or rounding.surplus % 256):
        x = walk.op("Sub", x, unsigned(rounding.surplus))
    return walk.op("Cast", x, to=dtype, facts={"shift": rounding.c})
