"""operator ==> groups: one rule for each row of the operator table decides fusion, packing and kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fxpress_ir.ops import Interval, arguments
from numpy.typing import NDArray
from torch import fx

from . import pack
from .draft import Draft, epilogue_of
from .physical import Buffer
from .tile import LOOP_COLUMNS, image_tile, matrix_tile

Rule = Callable[[Draft, fx.Node], None]
Constants = dict[str, NDArray[Any]]
Settings = dict[str, Any]

_fxp = torch.ops.fxp
_NO_VNNI = "the target has no AVX512-VNNI"


def _window(node: fx.Node) -> Settings:
    """The sizes of a window as lists of two (padding: four)."""
    named = {"dilation": [1, 1], **arguments(node)}
    kernel = named["weight"].meta["val"].shape[2:] if "weight" in named else named["kernel"]
    return {"kernel": list(kernel), **{key: list(named[key]) for key in ("stride", "padding", "dilation")}}


def _epilogue(draft: Draft, requantize: fx.Node | None, interval: Interval, channels: int) -> tuple[Constants, Settings]:
    """The parameters of a requantisation and what its kernel needs to know beside them.

    The pre-clip is left out where the proved interval of the accumulator keeps every product within 32 bits.
    """
    if requantize is None:
        return {}, {}
    named = arguments(requantize)
    b, c = draft.constant(named["b"]), named["c"]
    rows = pack.requantization(b, c, named["qmin"], named["qmax"], channels)
    clip = bool((interval.magnitude * b).max() + (1 << c) >= 1 << 31)
    return {"requantization": rows.astype(np.int32)}, {"shift": c, "qmin": named["qmin"], "qmax": named["qmax"], "clip": clip}


def _covered(node: fx.Node, requantize: fx.Node | None) -> list[fx.Node]:
    return [node] if requantize is None else [node, requantize]


def _weights(draft: Draft, node: fx.Node, source: Buffer, result: Buffer) -> tuple[NDArray[Any], Constants]:
    """The weight as [oc, ic, kh, kw], and the bias with the zero point of the input's storage folded in."""
    named = arguments(node)
    weight = draft.constant(named["weight"])
    bias = np.zeros(1, np.int64) if named["bias"] is None else draft.constant(named["bias"])
    folded = pack.folded_bias(weight, bias, source.zero)
    return weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1))), {"bias": pack.spread(folded, result.channels).astype(np.int32)}


def _conv2d(draft: Draft, node: fx.Node, requantize: fx.Node | None) -> None:
    named = arguments(node)
    source, result = draft.buffer(named["x"]), draft.stored(requantize or node)
    weight, bias = _weights(draft, node, source, result)
    tables, settings = _epilogue(draft, requantize, draft.interval(node), result.channels)
    settings |= _window(node)
    if draft.dot_products and named["groups"] == 1:
        kernel, why = "conv2d_vnni", ""
        height, width = result.outer
        settings["tile"] = list(image_tile(height, width, result.channels // pack.LANES))
        packed = pack.weights_by_word(weight, result.channels, source.channels)
    else:
        kernel, why = "conv2d_loops", f"{named['groups']} groups" if draft.dot_products else _NO_VNNI
        settings |= {"group_inputs": weight.shape[1], "group_outputs": weight.shape[0] // named["groups"]}
        settings["columns"] = min(result.outer[1], LOOP_COLUMNS)
        packed = pack.weights_by_lane(weight, result.channels)
    constants = {"weight": packed, **bias, **tables}
    draft.emit(kernel, [source], result, _covered(node, requantize), settings, constants, why)


def _linear(draft: Draft, node: fx.Node, requantize: fx.Node | None) -> None:
    """A product of rows; an image, whose last dimension is not its channels, is copied to rows and back."""
    x = arguments(node)["x"]
    source, stored = draft.in_rows(x), draft.stored(requantize or node)
    result = draft.rows_like(stored)
    weight, bias = _weights(draft, node, source, result)
    tables, settings = _epilogue(draft, requantize, draft.interval(node), result.channels)
    if draft.dot_products:
        kernel, why = "linear_vnni", ""
        settings["tile"] = list(matrix_tile(result.channels // pack.LANES))
        packed = pack.weights_by_word(weight, result.channels, source.channels)
    else:
        kernel, why = "linear_loops", _NO_VNNI
        packed = pack.weights_by_lane(weight, result.channels)
    nodes, constants = _covered(node, requantize), {"weight": packed, **bias, **tables}
    draft.emit(kernel, [source], result, nodes, settings, constants, why)
    if result != stored:
        draft.emit("rearrange", [result], stored, nodes[-1:], {"permutation": None})


def _sum_pool2d(draft: Draft, node: fx.Node, requantize: fx.Node | None) -> None:
    result = draft.stored(requantize or node)
    tables, settings = _epilogue(draft, requantize, draft.interval(node), result.channels)
    settings |= _window(node)
    source = draft.buffer(arguments(node)["x"])
    draft.emit("sum_pool2d", [source], result, _covered(node, requantize), settings, tables)


_ACCUMULATING: dict[Any, Callable[[Draft, fx.Node, fx.Node | None], None]] = {
    _fxp.conv2d.default: _conv2d,
    _fxp.linear.default: _linear,
    _fxp.sum_pool2d.default: _sum_pool2d,
}


def _accumulate(draft: Draft, node: fx.Node) -> None:
    """conv2d, linear and sum_pool2d wait for the requantisation that alone reads them."""
    if epilogue_of(node) is None:
        _ACCUMULATING[node.target](draft, node, None)


def _requantize(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    x, b = named["x"], named["b"].meta["val"]
    if x.target in _ACCUMULATING and epilogue_of(x) is node:
        _ACCUMULATING[x.target](draft, x, node)
        return
    result = draft.stored(node)
    loops = ["lead", 1, 2, 0] if result.layout == "NHWC" else ["lead", *range(len(result.shape))]
    axis = len(loops) - 1 if b.numel() == 1 else loops.index(named["axis"] % len(loops) - 1)
    size = result.channels if axis == len(loops) - 1 else result.outer[axis - 1]
    tables, settings = _epilogue(draft, node, draft.interval(x).hull(), size)
    draft.emit("requantize", [draft.buffer(x)], result, [node], {**settings, "axis": axis}, tables)


def _quantize(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    settings = {key: named[key] for key in ("scale", "qmin", "qmax")}
    draft.emit("quantize", [draft.buffer(named["x"])], draft.stored(node), [node], settings)


def _dequantize(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    draft.emit("dequantize", [draft.buffer(named["q"])], draft.plain(node), [node], {"scale": named["scale"]})


def _add(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    settings = {"bx": named["bx"], "by": named["by"], "shift": named["c"], "qmin": named["qmin"], "qmax": named["qmax"]}
    draft.emit("add", [draft.buffer(named["x"]), draft.buffer(named["y"])], draft.stored(node), [node], settings)


def _max_pool2d(draft: Draft, node: fx.Node) -> None:
    draft.emit("max_pool2d", [draft.buffer(arguments(node)["x"])], draft.stored(node), [node], _window(node))


RULES: dict[str, Rule] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "conv2d": _accumulate,
    "linear": _accumulate,
    "sum_pool2d": _accumulate,
    "requantize": _requantize,
    "add": _add,
    "max_pool2d": _max_pool2d,
}
"""The planner's rule for each row of the operator table."""
