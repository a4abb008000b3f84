"""ATen node that is not elementwise ==> what it is in integers, by the rule of its operator."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from fxpress_ir.ops import SHAPE_OPERATORS, arguments
from torch import fx

from .attention import SOFTMAXES, attention, hides
from .interpolate import bilinear, nearest
from .norm import layer_norm, rms_norm
from .pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d, mean
from .recognized import Recognized, Window
from .sequence import embedding, matmul, softmax
from .windows import around, pair, spatial

_aten, _fxp = torch.ops.aten, torch.ops.fxp
Border = tuple[int, int, int, int]
"""(top, left, bottom, right)"""
Rule = Callable[[fx.Node, dict[str, Any]], Recognized | str]


def _constant(value: Any) -> bool:
    """A tensor of the program, or one behind a fake quantiser."""
    if value is None or value.op == "get_attr":
        return True
    return value.target is _fxp.fake_quantize_channels.default and value.args[0].op == "get_attr"


def _conv2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    if not _constant(named["weight"]) or not _constant(named["bias"]):
        return "its weight is computed, not constant"
    kernel = tuple(named["weight"].meta["val"].shape[2:])
    stride, dilation = pair(named["stride"]), pair(named["dilation"])
    padding = (
        _same(kernel, dilation) if named["padding"] == "same" else around(pair(0 if named["padding"] == "valid" else named["padding"]))
    )
    source, border = _zero_border(named["input"])
    window = Window(kernel, stride, _sum(padding, border), dilation)
    return Recognized("weighted", (source,), weight=named["weight"], bias=named["bias"], window=window, groups=named["groups"])


def _zero_border(node: fx.Node) -> tuple[fx.Node, Border]:
    """The value that a node puts zeros around, and how many; a convolution's own padding does the same."""
    what = _pad(node, arguments(node)) if node.target in _ZERO_PADS else None
    if isinstance(what, Recognized) and what.kind == "pad" and what.fill == 0:
        return what.operands[0], what.padding
    return node, (0, 0, 0, 0)


def _sum(a: Border, b: Border) -> Border:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def _same(kernel: tuple[int, ...], dilation: tuple[int, int]) -> Border:
    """The padding of ``padding="same"``: the odd pixel goes to the bottom and the right."""
    total = [dilation[d] * (kernel[d] - 1) for d in (0, 1)]
    return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2


def _conv_transpose2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """A convolution with the flipped kernel over the input with zeros between its pixels."""
    if not _constant(named["weight"]) or not _constant(named["bias"]):
        return "its weight is computed, not constant"
    kernel = tuple(named["weight"].meta["val"].shape[2:])
    stride, dilation, padding = pair(named["stride"]), pair(named["dilation"]), pair(named["padding"])
    extra = pair(named["output_padding"])
    first = [dilation[d] * (kernel[d] - 1) - padding[d] for d in (0, 1)]
    last = [first[d] + extra[d] - (stride[d] - 1) for d in (0, 1)]
    if min(*first, *last) < 0:
        return "its padding cuts into the spread input"
    window = Window(kernel, (1, 1), (first[0], first[1], last[0], last[1]), dilation)
    parts = {"weight": named["weight"], "bias": named["bias"], "channel_axis": 1, "window": window, "groups": named["groups"]}
    return Recognized("weighted", (named["input"],), spread=stride, **parts)


def _linear(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    if not _constant(named["weight"]) or not _constant(named["bias"]):
        return "its weight is computed, not constant"
    return Recognized("weighted", (named["input"],), weight=named["weight"], bias=named["bias"])


def _move(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    return Recognized("move", (named["self"],))


def _split(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    return "its sizes are symbolic" if _sizes(node) is None else Recognized("split", (named["self"],))


def _sizes(split: fx.Node) -> tuple[int, list[int]] | None:
    """The dimension of a split and the sizes of its pieces, None where they are symbolic."""
    source = arguments(split)
    dim = source["dim"] % source["self"].meta["val"].dim()
    sizes = [piece.shape[dim] for piece in split.meta["val"]]
    return (dim, sizes) if all(isinstance(size, int) for size in sizes) else None


def _piece(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """One result of a split: a slice of what was split."""
    whole, index = node.args
    if not isinstance(whole, fx.Node) or whole.target not in _SPLITS:
        return "it takes one of several results"
    found = _sizes(whole)
    if found is None:
        return "its size is symbolic"
    assert isinstance(index, int)
    (dim, sizes), start = found, sum(found[1][:index])
    return Recognized("move", (whole,), part=(dim, start, start + sizes[index]))


def _select(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    shape = named["self"].meta["val"].shape
    dim = named["dim"] % len(shape)
    index = named["index"]
    if not isinstance(index, int) or (index < 0 and not isinstance(shape[dim], int)):
        return "it selects from the end of a symbolic dimension, or a computed position"
    index = index % shape[dim] if index < 0 else index
    return Recognized("move", (named["self"],), part=(dim, index, index + 1), squeezes=True)


def _cat(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    return Recognized("concat", tuple(named["tensors"]), axis=named["dim"] % node.meta["val"].dim())


def _pad(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    source, pads = named["self"], list(named["pad"] if "pad" in named else named["padding"])
    mode = _PADS[node.target] if node.target in _PADS else named.get("mode", "constant")
    size = spatial(source)
    if size is None or any(pads[4:]) or len(pads) < 2:
        return "it pads other dimensions than a static height and width"
    left, right, top, bottom = (*pads, 0, 0)[:4]
    if mode == "constant":
        fill = float(named.get("value") or 0.0)
        if min(left, right, top, bottom) < 0:
            return "it crops"
        return Recognized("pad", (source,), padding=(top, left, bottom, right), fill=fill)
    if mode not in ("replicate", "reflect"):
        return f"it pads by {mode}"
    rows, columns = _indices(size[0], top, bottom, mode), _indices(size[1], left, right, mode)
    return Recognized("select", (source,), rows=rows, columns=columns)


def _indices(size: int, before: int, after: int, mode: str) -> tuple[int, ...]:
    """Source positions of a replicated or reflected border."""
    if mode == "replicate":
        return tuple(min(max(i, 0), size - 1) for i in range(-before, size + after))
    return tuple(size - 1 - abs(size - 1 - abs(i)) for i in range(-before, size + after))


def _softmax(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """Not of what a mask hides: a grid that spans that has no steps left for the others. Nor of an attention that stays in floats."""
    if hides(named["self"]):
        return "a mask hides some of its operand, and it is no part of an attention"
    what = softmax(node, named)
    return what if isinstance(what, str) else _attention_refused(node) or what


def _attention_refused(softmax: fx.Node) -> str | None:
    """Why the attention that a softmax is part of stays in floats."""
    reasons = (attention(user) for user in softmax.users if user.args[0] is softmax)
    return next((reason for reason in reasons if isinstance(reason, str)), None)


def add(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """A sum or a difference of two values, not of scores and a mask that stay in floats."""
    for user in node.users:
        if user.target in SOFTMAXES and (reason := _attention_refused(user)):
            return reason
    if abs(named["alpha"]) != 1:
        return f"it scales its second operand by {named['alpha']}"
    sign = (-1 if node.target is _aten.sub.Tensor else 1) * named["alpha"]
    return Recognized("add", (named["self"], named["other"]), sign=int(sign))


def product(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """A product of two values."""
    return Recognized("product", (named["self"], named["other"]))


_ZERO_PADS = frozenset({_aten.pad.default, _aten.constant_pad_nd.default})
_SPLITS = frozenset({_aten.chunk.default, _aten.split.Tensor, _aten.split_with_sizes.default, _aten.split.sizes})
_PADS: dict[Any, str] = {_aten.replication_pad2d.default: "replicate", _aten.reflection_pad2d.default: "reflect"}
STRUCTURE: dict[Any, Rule] = {
    **dict.fromkeys(SHAPE_OPERATORS, _move),
    **dict.fromkeys(_SPLITS, _split),
    **dict.fromkeys((*_ZERO_PADS, *_PADS), _pad),
    operator.getitem: _piece,
    _aten.select.int: _select,
    _aten.conv2d.default: _conv2d,
    _aten.conv2d.padding: _conv2d,
    _aten.conv_transpose2d.input: _conv_transpose2d,
    _aten.linear.default: _linear,
    _aten.cat.default: _cat,
    _aten.avg_pool2d.default: avg_pool2d,
    _aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
    _aten.mean.dim: mean,
    _aten.max_pool2d.default: max_pool2d,
    _aten.layer_norm.default: layer_norm,
    _aten.rms_norm.default: rms_norm,
    _aten.embedding.default: embedding,
    _aten.matmul.default: matmul,
    **dict.fromkeys(SOFTMAXES, _softmax),
    _aten.upsample_nearest2d.vec: nearest,
    _aten.upsample_bilinear2d.vec: bilinear,
}
"""The rule of each operator; a rule gives what the node is, or the reason why it is nothing."""
PAIRS: dict[Any, Rule] = {_aten.add.Tensor: add, _aten.sub.Tensor: add, _aten.mul.Tensor: product}
"""Operators on two values; over one value and constants they are elementwise."""
