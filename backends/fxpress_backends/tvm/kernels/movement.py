"""Elements from one buffer to another, one by one: across the borders, between layouts, under shape operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..sizes import blocks
from ..steps import Step
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

    _copy(call, value)


def dequantize(call: Call) -> None:
    """``f32(q) * f32(s)``."""
    scale = T.float32(np.float32(call.attributes["scale"]))
    _copy(call, lambda q: T.Cast("float32", _integer(q, call.inputs[0])) * scale)


def convert(call: Call) -> None:
    """The same integers between a caller's storage and a kernel's."""
    _copy(call, lambda q: _narrowed(_integer(q, call.inputs[0]), call.output))


def rearrange(call: Call) -> None:
    """Shape operators, one after the other."""
    _copy(call, lambda q: q, call.attributes["steps"])


def _integer(q: Expr, operand: Operand) -> Expr:
    value = T.Cast("int64" if operand.spec.dtype == "int64" else "int32", q)
    return value - operand.spec.zero if operand.spec.zero else value


def _narrowed(value: Expr, operand: Operand) -> Expr:
    return T.Cast(operand.spec.dtype, value + operand.spec.zero if operand.spec.zero else value)


def _copy(call: Call, value: Convert, steps: Sequence[Step] = ()) -> None:
    """Each element of the output; an image goes row by row, so that threads write and read apart."""
    sizes = call.output.shape
    order = [2, 1, 3] if call.output.spec.layout == "NHWC" else list(range(1, len(sizes) + 1))
    first = sizes[order[0] - 1]
    fill_halo(call.output)
    with T.parallel(call.output.lead * first) as task:
        _nest(call, value, steps, {0: task // first, order[0]: task % first}, order[1:])


def _nest(call: Call, value: Convert, steps: Sequence[Step], at: dict[int, Expr], order: Sequence[int]) -> None:
    """Loops over the dimensions in `order`, then one element at the indices of `at`."""
    if order:
        size, run = call.output.shape[order[0] - 1], _run(steps) if len(order) == 1 and order[0] == len(call.output.spec.shape) else 1
        with T.serial(size // run) as part, T.serial(run) as index:
            _nest(call, value, steps, {**at, order[0]: part * run + index}, order[1:])
        return
    (source,), output = call.inputs, call.output
    indices = [at[dimension] for dimension in sorted(at)]
    origin = _before(call, steps, indices)
    output.store(value(source.load(*_located(source, origin))), *_located(output, indices))


def _run(steps: Sequence[Step]) -> int:
    """How many elements of the last dimension lie side by side before it was merged with others; vectors are made of these."""
    if not steps or steps[-1][0] != "shape":
        return 1
    _, before, after = steps[-1]
    old, new = blocks(before, after)[-1]
    merges = len(before[old]) > 1 and len(after[new]) == 1 and isinstance(before[-1], int)
    return before[-1] if merges else 1


def _before(call: Call, steps: Sequence[Step], indices: list[Expr]) -> list[Expr]:
    """Where an element was before the steps."""
    for kind, *data in reversed(steps):
        if kind == "order":
            indices = [indices[data[0].index(dimension)] for dimension in range(len(indices))]
        elif kind == "line":
            indices = [call.value(start) + stride * index for index, start, stride in zip(indices, *data, strict=True)]
        else:
            before, after = ([call.value(size) for size in sizes] for sizes in data)
            runs = blocks(*data)
            indices = [index for old, new in runs for index in _unravelled(_ravelled(indices[new], after[new]), before[old])]
    return indices


def _located(operand: Operand, logical: list[Expr]) -> tuple[list[Expr], Expr]:
    """Outer indices and channel of a logical index."""
    if operand.spec.layout == "NHWC":
        image, channel, row, column = logical
        return [image, row, column], channel
    return logical[:-1], logical[-1]


def _ravelled(indices: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    position: Expr = indices[0] if indices else 0
    for index, size in zip(indices[1:], shape[1:], strict=True):
        position = position * size + index
    return position


def _unravelled(position: Expr, shape: Sequence[Expr]) -> list[Expr]:
    if not shape:
        return []
    indices: list[Expr] = []
    for size in reversed(shape[1:]):
        indices.insert(0, position % size)
        position = position // size
    return [position, *indices]
