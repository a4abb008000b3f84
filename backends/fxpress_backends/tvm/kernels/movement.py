"""Elements from one buffer to another, one by one: across the borders, between layouts, under shape operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T  # noqa: N812

from .operand import Call, Expr, Operand, fill_halo

Convert = Callable[[Expr], Expr]
Step = Sequence[Any]


def quantize(call: Call) -> None:
    """``clamp(rint(x / s))`` in IEEE float32: a division, rounded half to even; a product with 1 / s gives other bits."""
    settings = call.attributes
    scale = T.float32(np.float32(settings["scale"]))

    def value(x: Expr) -> Expr:
        steps = T.nearbyint(T.Cast("float32", x) / scale)
        clamped = T.max(T.min(steps, T.float32(settings["qmax"])), T.float32(settings["qmin"]))
        return _narrowed(T.Cast("int32", clamped), call.output)

    _copy(call, value)


def dequantize(call: Call) -> None:
    """``f32(q) * f32(s)``."""
    scale = T.float32(np.float32(call.attributes["scale"]))
    _copy(call, lambda q: T.Cast("float32", _integer(q, call.inputs[0])) * scale)


def convert(call: Call) -> None:
    """The same integers between a caller's storage and a kernel's."""
    _copy(call, lambda q: _narrowed(_integer(q, call.inputs[0]), call.output))


def rearrange(call: Call) -> None:
    """Permutations of dimensions and other shapes over the same row-major order, one after the other."""
    _copy(call, lambda q: q, call.attributes["steps"])


def _integer(q: Expr, operand: Operand) -> Expr:
    value = T.Cast("int32", q)
    return value - operand.spec.zero if operand.spec.zero else value


def _narrowed(value: Expr, operand: Operand) -> Expr:
    return T.Cast(operand.spec.dtype, value + operand.spec.zero if operand.spec.zero else value)


def _copy(call: Call, value: Convert, steps: Sequence[Step] = ()) -> None:
    """Each element of the output; an image goes row by row, so that threads write and read apart."""
    sizes = call.output.spec.shape
    order = [2, 1, 3] if len(sizes) == 3 else list(range(1, len(sizes) + 1))
    first = sizes[order[0] - 1]
    fill_halo(call.output)
    with T.parallel(call.output.lead * first) as task:
        _nest(call, value, steps, {0: task // first, order[0]: task % first}, order[1:])


def _nest(call: Call, value: Convert, steps: Sequence[Step], at: dict[int, Expr], order: Sequence[int]) -> None:
    """Loops over the dimensions in `order`, then one element at the indices of `at`."""
    if order:
        with T.serial(call.output.spec.shape[order[0] - 1]) as index:
            _nest(call, value, steps, {**at, order[0]: index}, order[1:])
        return
    (source,), output = call.inputs, call.output
    indices = [at[dimension] for dimension in sorted(at)]
    origin = _before(steps, indices, [output.lead, *output.spec.shape])
    output.store(value(source.load(*_located(source, origin))), *_located(output, indices))


def _before(steps: Sequence[Step], indices: list[Expr], shape: Sequence[Expr]) -> list[Expr]:
    """Where an element was before the steps: ``["order", *dimensions]`` or ``["shape", *sizes before]``."""
    for kind, *numbers in reversed(steps):
        if kind == "order":
            indices, shape = ([values[numbers.index(d)] for d in range(len(numbers))] for values in (indices, shape))
        else:
            indices, shape = _unravelled(_ravelled(indices, shape), numbers), numbers
    return indices


def _located(operand: Operand, logical: list[Expr]) -> tuple[list[Expr], Expr]:
    """Outer indices and channel of a logical index."""
    if operand.spec.layout == "NHWC":
        image, channel, row, column = logical
        return [image, row, column], channel
    return logical[:-1], logical[-1]


def _ravelled(indices: list[Expr], shape: Sequence[Expr]) -> Expr:
    position = indices[0]
    for index, size in zip(indices[1:], shape[1:], strict=True):
        position = position * size + index
    return position


def _unravelled(position: Expr, shape: Sequence[Expr]) -> list[Expr]:
    indices: list[Expr] = []
    for size in reversed(shape[1:]):
        indices.insert(0, position % size)
        position = position // size
    return [position, *indices]
