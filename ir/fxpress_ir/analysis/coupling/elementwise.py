"""y = f(a, b, ...) element by element ==> entries at the same place are tied; what f makes of zeros is tried."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from .call import Call, is_one, sizes
from .ties import ONE, Axis, Value

ALIKE = {
    "to", "_to_copy", "clone", "contiguous", "dropout", "feature_dropout", "alpha_dropout", "detach", "detach_", "alias",
    "lift_fresh_copy", "type_as", "zeros_like", "ones_like", "full_like",
}  # fmt: skip
"""Operators whose result has the shape of the first operand and no other."""

ELEMENTWISE = ALIKE | {
    "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip", "sigmoid", "tanh", "gelu", "silu", "mish", "softplus",
    "hardswish", "hardsigmoid", "leaky_relu", "elu", "selu", "celu", "log_sigmoid", "hardshrink", "softshrink", "tanhshrink",
    "threshold", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "sign", "expm1", "erf", "erfc", "exp", "exp2",
    "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "abs", "neg", "reciprocal", "square", "pow", "add", "sub", "mul", "div",
    "rsub", "multiply", "subtract", "divide", "true_divide", "floor_divide", "maximum", "minimum", "remainder", "fmod", "floor",
    "ceil", "round", "trunc", "frac", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not",
    "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor", "__and__", "__or__", "__xor__", "where",
    "masked_fill", "isnan", "isinf", "isfinite", "nan_to_num", "lerp", "addcmul", "addcdiv", "atan2", "hypot", "logit", "positive",
}  # fmt: skip

_OTHERS = (0.37, -1.3)
"""What stands for a value that is not known to be zero."""


def elementwise(call: Call) -> Value:
    """Broadcast as PyTorch does; a dimension of one entry is no tie."""
    operands = [call.first()] if call.name in ALIKE else call.node.all_input_nodes
    operands = [node for node in operands if isinstance(node.meta["val"], Tensor)]
    rank, found = len(call.shape), []
    for position, size in enumerate(call.shape):
        carrying = {}
        for node in operands:
            here = position - rank + len(sizes(node))
            if here >= 0 and (is_one(size) or not is_one(sizes(node)[here])):
                carrying[node] = call.value(node)[here]
        found.append(ONE if is_one(size) else _axis(call, carrying))
    return tuple(found)


def _axis(call: Call, carrying: dict[fx.Node, Axis]) -> Axis:
    labels = call.ties.tie(*(axis.labels for axis in carrying.values()))
    zeros = {node for node, axis in carrying.items() if axis.zero}
    if not isinstance(labels, str) and zeros and not is_finite(call.node, zeros):
        call.lose(labels, "zeros are made infinite")
    return Axis(labels, not isinstance(labels, str) and bool(zeros) and is_zero(call.node, zeros))


def is_zero(node: fx.Node, zeros: Collection[fx.Node]) -> bool:
    """An elementwise call gives 0 wherever the operands `zeros` are 0."""
    return all(result is not None and bool((result == 0).all()) for result in _probed(node, zeros))


def is_finite(node: fx.Node, zeros: Collection[fx.Node]) -> bool:
    """An elementwise call is finite where the operands `zeros` are 0, if it is where they are not."""
    return all(
        result is not None and (bool(result.isfinite().all()) or other is None or not bool(other.isfinite().all()))
        for result, other in zip(_probed(node, zeros), _probed(node, zeros, 0.6), strict=True)
    )


def _probed(node: fx.Node, zeros: Collection[fx.Node], value: float = 0.0) -> Iterator[Tensor | None]:
    """The call on single elements: `value` for `zeros`, every choice of other values for the other operands.

    None where it cannot be called so (an integer divided by 0).
    """
    others = [used for used in node.all_input_nodes if used not in zeros]
    for chosen in product(_OTHERS, repeat=len(others)):
        given = {**dict.fromkeys(zeros, value), **dict(zip(others, chosen, strict=True))}
        args, kwargs = map_arg((node.args, node.kwargs), partial(_element, given))
        try:
            yield node.target(*args, **kwargs)  # type: ignore[operator]
        except RuntimeError:
            yield None


def _element(given: Mapping[fx.Node, float], node: fx.Node) -> Any:
    """One element that holds what is given, of the node's dtype and, as far as scalars go, rank; 1 for a size."""
    val, value = node.meta["val"], given[node]
    if not isinstance(val, Tensor):
        return 1
    element = torch.tensor(value > 0 if val.dtype is torch.bool else value).to(val.dtype)
    return element.reshape([1] * min(1, val.dim()))


def prelu(call: Call) -> Value:
    """The slopes [channels] or [1] belong to dimension 1."""
    x, slopes = call.value(call["self"]), call.value(call["weight"])[0]
    if len(x) < 2 or is_one(sizes(call["weight"])[0]):
        return x
    return (x[0], Axis(call.ties.tie(x[1].labels, slopes.labels), x[1].zero), *x[2:])


RULES = {**dict.fromkeys(ELEMENTWISE, elementwise), "prelu": prelu}
