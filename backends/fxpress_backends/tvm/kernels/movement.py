"""Elements from one buffer to another, one by one: across the borders, between layouts, under shape operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm.script.ir_builder import tirx as T  # noqa: N812

from .operand import Call, Expr, Operand, fill_halo

Convert = Callable[[Expr], Expr]


def quantize(call: Call) -> None:
    """``clamp(rint(x / s))`` in IEEE float32: a division, rounded half to even; a product with 1 / s gives other bits."""
    settings = call.attributes
    scale = T.float32(np.float32(settings["scale"]))

    def value(x: Expr) -> Expr:
        steps = T.nearbyint(T.Cast("float32", x) / scale)
        clamped = T.max(T.min(steps, T.float32(settings["qmax"])), T.float32(settings["qmin"]))
        return _narrowed(T.Cast("int32", clamped), call.output)

    _copy(call, value, None)


def dequantize(call: Call) -> None:
    """``f32(q) * f32(s)``."""
    scale = T.float32(np.float32(call.attributes["scale"]))
    _copy(call, lambda q: T.Cast("float32", _integer(q, call.inputs[0])) * scale, None)


def convert(call: Call) -> None:
    """The same integers between a caller's storage and a kernel's."""
    _copy(call, lambda q: _narrowed(_integer(q, call.inputs[0]), call.output), None)


def rearrange(call: Call) -> None:
    """A permutation of dimensions, or another shape over the same row-major order."""
    _copy(call, lambda q: q, call.attributes["permutation"])


def _integer(q: Expr, operand: Operand) -> Expr:
    value = T.Cast("int32", q)
    return value - operand.spec.zero if operand.spec.zero else value


def _narrowed(value: Expr, operand: Operand) -> Expr:
    return T.Cast(operand.spec.dtype, value + operand.spec.zero if operand.spec.zero else value)


def _copy(call: Call, value: Convert, permutation: Sequence[int] | None) -> None:
    """Each element of the output; an image goes row by row, so that threads write and read apart."""
    sizes = call.output.spec.shape
    order = [2, 1, 3] if len(sizes) == 3 else list(range(1, len(sizes) + 1))
    first = sizes[order[0] - 1]
    fill_halo(call.output)
    with T.parallel(call.output.lead * first) as task:
        _nest(call, value, permutation, {0: task // first, order[0]: task % first}, order[1:])


def _nest(call: Call, value: Convert, permutation: Sequence[int] | None, at: dict[int, Expr], order: Sequence[int]) -> None:
    """Loops over the dimensions in `order`, then one element at the indices of `at`."""
    if order:
        with T.serial(call.output.spec.shape[order[0] - 1]) as index:
            _nest(call, value, permutation, {**at, order[0]: index}, order[1:])
        return
    (source,), output = call.inputs, call.output
    indices = [at[dimension] for dimension in sorted(at)]
    if permutation is not None:
        origin = [indices[permutation.index(dimension)] for dimension in range(len(indices))]
    elif source.spec.shape == output.spec.shape:
        origin = indices
    else:
        origin = _unravelled(_ravelled(indices, output.spec.shape), source.spec.shape)
    output.store(value(source.load(*_located(source, origin))), *_located(output, indices))


def _located(operand: Operand, logical: list[Expr]) -> tuple[list[Expr], Expr]:
    """Outer indices and channel of a logical index."""
    if operand.spec.layout == "NHWC":
        image, channel, row, column = logical
        return [image, row, column], channel
    return logical[:-1], logical[-1]


def _ravelled(indices: list[Expr], shape: Sequence[int]) -> Expr:
    position = indices[0]
    for index, size in zip(indices[1:], shape, strict=True):
        position = position * size + index
    return position


def _unravelled(position: Expr, shape: Sequence[int]) -> list[Expr]:
    indices: list[Expr] = []
    for size in reversed(shape):
        indices.insert(0, position % size)
        position = position // size
    return [position, *indices]
