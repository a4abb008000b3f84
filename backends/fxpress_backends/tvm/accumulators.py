"""conv2d, linear, sum_pool2d and multiply ==> a group each, with the requantisation, and addition, that runs in its registers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from fxpress_ir.ops import Interval, arguments
from numpy.typing import NDArray
from torch import fx

from . import pack
from .columns import columns, covered, spans
from .dots import computed_products, dot_products, packed, paired
from .draft import Draft
from .nibbles import NIBBLE_REGISTERS, SHIFT, fits, nibbles_of_words, pays
from .nodes import addition_of, epilogue_of
from .physical import Buffer
from .tile import (
    COLUMNS,
    LOOP_COLUMNS,
    LOOP_ROWS,
    MATRIX_ROWS,
    MMA_DEPTH,
    MMA_ROWS,
    column_tile,
    image_tile,
    matrix_tile,
    warp_tile,
)
from .tiles import conv2d_tiles, linear_tiles

Constants = dict[str, NDArray[Any]]
Settings = dict[str, Any]

_fxp = torch.ops.fxp
_BYTES = (torch.int8, torch.uint8)


def window(node: fx.Node) -> Settings:
    """The sizes of a window as lists of two (padding: four)."""
    named = {"dilation": [1, 1], **arguments(node)}
    kernel = named["weight"].meta["val"].shape[2:] if "weight" in named else named["kernel"]
    return {"kernel": list(kernel), **{key: list(named[key]) for key in ("stride", "padding", "dilation")}}


def epilogue(draft: Draft, requantize: fx.Node | None, interval: Interval, channels: int) -> tuple[Constants, Settings]:
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


_WHOLE = 1 << 24
"""Whole numbers up to here are float32."""


def floats_are_exact(draft: Draft, requantize: fx.Node | None, interval: Interval, addition: Settings | None = None) -> Settings:
    """The setting with which an epilogue rounds in float32, where a fused multiply-add gives the same bits in half the steps.

    ``fma(acc, b / 2**c, 3 * 2**22)`` rounds the exact product once, half to even, at the whole numbers, when acc is a float32. Larger
    accumulators are rounded on the way in, so their results have to lie beyond the clamp. An addition has to be exact
    before its shift.
    """
    if requantize is None or not (draft.dot_products or draft.products_of_pairs):
        return {}
    named = arguments(requantize)
    if named["dtype"] not in (torch.int8, torch.uint8, torch.int16):
        return {}
    b, reach = draft.constant(named["b"]).astype(np.int64), max(abs(named["qmin"]), abs(named["qmax"]))
    beyond = (interval.magnitude <= _WHOLE) | (_WHOLE * np.abs(b) >= (reach + 1) << named["c"])
    if addition is not None and (abs(addition["own"]) * reach + abs(addition["other"]) * 255 > _WHOLE):
        return {}
    return {"floats": True} if bool(np.all(beyond)) and int(np.abs(b).max()) <= _WHOLE else {}


def _covered(*nodes: fx.Node | None) -> list[fx.Node]:
    return [node for node in nodes if node is not None]


def _bias(draft: Draft, node: fx.Node, weight: NDArray[Any], source: Buffer, result: Buffer, kernel: str) -> Constants:
    """The bias with the zero point of what the kernel multiplies folded in: sdot, smull and dp4a take 128 off what has no sign.

    A bias that leaves 32 bits wraps, as the sums after it do, back to an accumulator that fits.
    """
    bias = arguments(node)["bias"]
    zero = -128 if kernel.endswith(("_sdot", "_smull", "_dp4a")) and source.dtype == "uint8" else source.zero
    folded = pack.folded_bias(weight, None if bias is None else draft.constant(bias), zero)
    return {"bias": pack.spread(folded, result.channels).astype(np.int32)}


def _conv2d(draft: Draft, node: fx.Node, requantize: fx.Node | None, addition: fx.Node | None = None) -> None:
    nodes = _covered(node, requantize, addition)
    inputs, result = [draft.buffer(arguments(node)["x"])], draft.stored(nodes[-1])
    tables, settings = epilogue(draft, requantize, draft.interval(node), result.channels)
    if addition is not None:
        named = arguments(addition)
        first = named["x"] is requantize
        inputs.append(draft.buffer(named["y" if first else "x"]))
        own, other = (named["bx"], named["by"]) if first else (named["by"], named["bx"])
        settings["add"] = {"own": own, "other": other, "shift": named["c"], "qmin": named["qmin"], "qmax": named["qmax"]}
    if addition is None or (nodes[-1].meta["val"].dtype in _BYTES and inputs[1].dtype in ("int8", "uint8")):
        settings |= floats_are_exact(draft, requantize, draft.interval(node), settings.get("add"))
    weight = draft.constant(arguments(node)["weight"])
    kernel, in_order, chosen, why = _kernel(draft, node, weight, inputs[0], result)
    constants = {"weight": in_order, **_bias(draft, node, weight, inputs[0], result, kernel), **tables}
    draft.emit(kernel, inputs, result, nodes, {**settings, **window(node), **chosen}, constants, why)


def emulation(draft: Draft) -> Settings:
    """What kernels of tiles have to know: the setting ``emulated`` where tiles are C functions."""
    return {"emulated": True} if draft.emulated_tiles or draft.emulated_threads else {}


def _kernel(draft: Draft, node: fx.Node, weight: NDArray[Any], source: Buffer, result: Buffer) -> tuple[str, NDArray[Any], Settings, str]:
    """The kernel of a convolution, its packed weights, its settings beside the window, and why it is no faster one."""
    groups, sizes, (height, width) = arguments(node)["groups"], window(node), result.pixels
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dots = dot_products(draft, source, weight)
    slow, depthwise = dots.refusal, groups > 1 and inputs == outputs == 1
    if not slow and depthwise and dots.name in COLUMNS:
        kind = COLUMNS[dots.name]
        tile_of = column_tile(height, width, sizes["kernel"], sizes["stride"], sizes["dilation"], kind)
        by_column = pack.weights_by_column(weight, result.channels, tile_of[0], sizes["stride"][0], sizes["dilation"][0], kind.size)
        in_place = by_column.astype(np.int16) if dots.name == "avx2" else by_column
        why = "tiles would be zeros but for one input" if draft.tiles else ""
        return "conv2d_depthwise" if dots.name == "vnni" else f"conv2d_depthwise_{dots.name}", in_place, {"tile": list(tile_of)}, why
    merged = pack.merging(groups, inputs, outputs)
    if not slow and not depthwise and merged <= pack.LANES:
        dense = merged == groups
        stored_inputs, stored_outputs = (source.channels, result.channels) if dense else (inputs * merged, outputs * merged)
        words = pack.weights_by_word(pack.block_diagonal(weight, groups, merged), result.channels, stored_inputs)
        of_group = {} if dense else {"group_inputs": stored_inputs, "group_outputs": stored_outputs}
        tiled, run, small = conv2d_tiles(source, result, sizes, stored_inputs, stored_outputs)
        if draft.tiles and not small:
            return "conv2d_amx", pack.weights_by_tile(words, run), {**tiled, **of_group, **emulation(draft)}, ""
        dots = paired(draft, dots, result, stored_inputs)
        tile = {"tile": list(image_tile(height, width, stored_outputs // pack.LANES, dots.registers, dots.together))}
        in_order = packed(dots, words, source)
        if draft.tensor_cores:
            run_words = stored_inputs // pack.WORD * (sizes["kernel"][1] if sizes["dilation"][1] == 1 else 1)
            warp = warp_tile(height * width, result.channels) if dense and run_words % MMA_DEPTH == 0 else None
            if warp is not None:
                return "conv2d_mma", in_order, {"tile": list(warp), **emulation(draft)}, ""
        return f"conv2d_{dots.name}", in_order, {**tile, **of_group}, small if draft.tiles else dots.why
    settings = {"group_inputs": inputs, "group_outputs": outputs, "columns": min(width, LOOP_COLUMNS)}
    why = slow or f"{groups} groups of {inputs} inputs and {outputs} outputs"
    return "conv2d_loops", pack.weights_by_lane(weight, result.channels), settings, why


def _linear(draft: Draft, node: fx.Node, requantize: fx.Node | None) -> None:
    """A product of rows; an image, whose last dimension is not its channels, is moved to rows before."""
    source, result = draft.in_rows(arguments(node)["x"]), draft.rows_like(draft.stored(requantize or node))
    weight = draft.constant(arguments(node)["weight"])
    tables, settings = epilogue(draft, requantize, draft.interval(node), result.channels)
    settings |= floats_are_exact(draft, requantize, draft.interval(node))
    dots, word_order = dot_products(draft, source, weight), (weight[..., None, None], result.channels, source.channels)
    in_order: NDArray[Any]
    slow, raised = dots.refusal, 0
    if not slow:
        words = pack.weights_by_word(*word_order)
        tiled, small = linear_tiles(source, result)
        if draft.tiles and not small:
            kernel, in_order = "linear_amx", pack.weights_by_tile(words, source.channels // pack.WORD)
            settings |= {**tiled, **emulation(draft)}
        else:
            dots = paired(draft, dots, result, source.channels)
            kernel, in_order, slow = f"linear_{dots.name}", packed(dots, words, source), small if draft.tiles else dots.why
            settings["tile"] = list(matrix_tile(result.channels // pack.LANES, dots.registers))
            wanted = pays(source, result) if draft.nibbles is None else draft.nibbles
            if wanted and dots.name == "vnni" and fits(weight, _bias(draft, node, weight, source, result, kernel)["bias"]):
                kernel, in_order, raised = "linear_nibbles", nibbles_of_words(words), SHIFT
                settings["tile"] = list(matrix_tile(result.channels // pack.LANES, NIBBLE_REGISTERS))
        if draft.tensor_cores:
            rows = prod(size if isinstance(size, int) else MMA_ROWS for size in result.outer)
            warp = warp_tile(rows, result.channels) if source.channels // pack.WORD % MMA_DEPTH == 0 else None
            if warp is not None:
                kernel = "linear_mma"
                settings |= {"tile": list(warp), **emulation(draft)}
    elif source.dtype == "int16" and draft.dot_products:
        kernel, in_order = "linear_pairs", pack.pairs_of_words(pack.weights_by_word(*word_order))
        settings["tile"] = list(matrix_tile(result.channels // pack.LANES, dots.registers))
    else:
        kernel = "linear_loops"
        in_order = pack.weights_by_lane(*word_order[:2])
        settings |= {} if draft.words_of_threads else {"tile": [LOOP_ROWS, 1]}
    bias = _bias(draft, node, weight, source, result, kernel)["bias"] << raised
    draft.emit(kernel, [source], result, _covered(node, requantize), settings, {"weight": in_order, "bias": bias, **tables}, slow)


def _sum_pool2d(draft: Draft, node: fx.Node, requantize: fx.Node | None) -> None:
    result = draft.stored(requantize or node)
    tables, settings = epilogue(draft, requantize, draft.interval(node), result.channels)
    source = draft.buffer(arguments(node)["x"])
    draft.emit("sum_pool2d", [source], result, _covered(node, requantize), {**settings, **window(node)}, tables)


def _multiply(draft: Draft, node: fx.Node, requantize: fx.Node | None) -> None:
    named, result = arguments(node), draft.stored(requantize or node)
    tables, settings = epilogue(draft, requantize, draft.interval(node), pack.columns(result))
    operands = [columns(draft, named[operand]) for operand in ("x", "y")]
    nodes = [*covered(draft, operands, node), *_covered(requantize)]
    draft.emit("multiply", [operand.held for operand in operands], result, nodes, {**settings, **spans(operands)}, tables, owner=node)


def _matmul(draft: Draft, node: fx.Node, requantize: fx.Node | None) -> None:
    """Rows as in a linear; dot products of bytes take y as s8, which may be u8 with 128 added in memory."""
    named, result = arguments(node), draft.rows_like(draft.stored(requantize or node))
    tables, settings = epilogue(draft, requantize, draft.interval(node), pack.columns(result))
    x, y = (draft.in_rows(named[operand]) for operand in ("x", "y"))
    kind, slow = computed_products(draft, x, y)
    count = result.outer[-1]
    rows = 1 if draft.words_of_threads else min(MATRIX_ROWS[kind], count if isinstance(count, int) else MATRIX_ROWS[kind])
    why = slow or ("tiles take fixed weights" if draft.tiles else "")
    draft.emit(f"matmul_{kind}", [x, y], result, _covered(node, requantize), {**settings, "tile": rows}, tables, why)


_ACCUMULATING: dict[Any, Callable[[Draft, fx.Node, fx.Node | None], None]] = {
    _fxp.conv2d.default: _conv2d,
    _fxp.linear.default: _linear,
    _fxp.sum_pool2d.default: _sum_pool2d,
    _fxp.multiply.default: _multiply,
    _fxp.matmul.default: _matmul,
}


def accumulate(draft: Draft, node: fx.Node) -> None:
    """Waits for the requantisation that alone reads it."""
    if epilogue_of(node, draft.is_image(node)) is None:
        _ACCUMULATING[node.target](draft, node, None)


def finish(draft: Draft, requantize: fx.Node) -> bool:
    """Emit the accumulator that a requantisation belongs to, or leave it to the addition that takes both; False where there is none."""
    x = arguments(requantize)["x"]
    if x.target not in _ACCUMULATING or epilogue_of(x, draft.is_image(x)) is not requantize:
        return False
    if not draft.fuses_additions or addition_of(requantize) is None:
        _ACCUMULATING[x.target](draft, x, requantize)
    return True


def finish_sum(draft: Draft, addition: fx.Node) -> bool:
    """Emit the convolution that an addition belongs to; False where there is none."""
    if not draft.fuses_additions:
        return False
    for summand in (arguments(addition)["x"], arguments(addition)["y"]):
        if addition_of(summand) is addition:
            _conv2d(draft, arguments(summand)["x"], summand, addition)
            return True
    return False
