"""operator ==> groups: one rule for each row of the operator table decides fusion, packing and kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fxpress_ir.ops import arguments
from torch import fx

from . import moves, pack
from .accumulators import accumulate, epilogue, finish, finish_sum, window
from .attention import attention, softmax
from .columns import columns, covered, spans
from .draft import Draft
from .logic import positions
from .normalize import finish_row, map_of, normalize
from .rotary import rotary

Rule = Callable[[Draft, fx.Node], None]


def _requantize(draft: Draft, node: fx.Node) -> None:
    if finish(draft, node):
        return
    named, result = arguments(node), draft.stored(node)
    axis, size = _axis(draft, node, named["b"])
    tables, settings = epilogue(draft, node, draft.interval(named["x"]).hull(), size)
    source = columns(draft, named["x"])
    settings |= {"axis": axis, **spans([source])}
    draft.emit("requantize", [source.held], result, covered(draft, [source], node), settings, tables, owner=node)


def _axis(draft: Draft, node: fx.Node, values: fx.Node) -> tuple[int, int]:
    """The physical dimension along which parameters run, and how many it stores; one parameter goes to every channel."""
    result, last = draft.stored(node), len(node.meta["val"].shape) - 1
    axis = last if values.meta["val"].shape[0] == 1 else draft.loop_of(node, arguments(node)["axis"])
    if axis == last:
        return axis, pack.columns(result)
    size = result.outer[axis - 1]
    assert isinstance(size, int), "a constant runs along it"
    return axis, size


def _quantize(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    settings = {key: named[key] for key in ("scale", "qmin", "qmax")}
    draft.emit("quantize", [draft.buffer(named["x"])], draft.stored(node), [node], settings)


def _dequantize(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    draft.emit("dequantize", [draft.buffer(named["q"])], draft.plain(node), [node], {"scale": named["scale"]})


def _add(draft: Draft, node: fx.Node) -> None:
    if finish_sum(draft, node):
        return
    named = arguments(node)
    operands = [columns(draft, named[operand]) for operand in ("x", "y")]
    settings = {"bx": named["bx"], "by": named["by"], "shift": named["c"], "qmin": named["qmin"], "qmax": named["qmax"]}
    settings |= spans(operands)
    draft.emit("add", [operand.held for operand in operands], draft.stored(node), covered(draft, operands, node), settings)


def _max_pool2d(draft: Draft, node: fx.Node) -> None:
    draft.emit("max_pool2d", [draft.buffer(arguments(node)["x"])], draft.stored(node), [node], window(node))


def _lut(draft: Draft, node: fx.Node) -> None:
    """What is stored for each stored byte; permutes of bytes where one table serves at least as many in a row as they take."""
    named, result = arguments(node), draft.stored(node)
    source, table = columns(draft, named["x"]), draft.constant(named["table"])
    axis, size = _axis(draft, node, named["table"])
    nodes, settings = covered(draft, [source], node), spans([source])
    if len(table) > 1:
        packed, why = pack.tables_by_byte(table, size, source.held, result), f"a table for each of {len(table)}"
        draft.emit("lut", [source.held], result, nodes, {"axis": axis, **settings}, {"table": packed}, why, owner=node)
        return
    line = pack.line(result) if source.run is None else result.channels
    packed = pack.tables_by_byte(table, 1, source.held, result)
    if draft.lookup and line >= pack.BYTES:
        draft.emit("lut_permute", [source.held], result, nodes, {**settings, "lookup": draft.lookup}, {"table": packed}, owner=node)
    else:
        why = f"{line} bytes in a row" if draft.lookup else "the target permutes no bytes"
        draft.emit("lut", [source.held], result, nodes, settings, {"table": packed}, why, owner=node)


def _lut16(draft: Draft, node: fx.Node) -> None:
    """Knots as they are, one table or one for each stored index of the axis."""
    named, result = arguments(node), draft.stored(node)
    table, (axis, size) = draft.constant(named["table"]).astype(np.int16), _axis(draft, node, named["table"])
    source, settings = columns(draft, named["x"]), {"axis": axis} if len(table) > 1 else {}
    packed = np.pad(table, ((0, size - len(table)), (0, 0))) if settings else table
    settings |= spans([source])
    draft.emit("lut16", [source.held], result, covered(draft, [source], node), settings, {"table": packed}, owner=node)


def _affine(draft: Draft, node: fx.Node) -> None:
    if finish_row(draft, node):
        return
    named = arguments(node)
    more = max((named["g"], named["b"]), key=lambda values: values.meta["val"].shape[0])
    axis, size = _axis(draft, node, more)
    tables, settings = map_of(draft, node, size)
    draft.emit("affine", [draft.buffer(named["u"])], draft.stored(node), [node], {**settings, "axis": axis}, tables)


RULES: dict[str, Rule] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "conv2d": accumulate,
    "linear": accumulate,
    "sum_pool2d": accumulate,
    "multiply": accumulate,
    "requantize": _requantize,
    "add": _add,
    "max_pool2d": _max_pool2d,
    "lut": _lut,
    "lut16": _lut16,
    "select2d": moves.select2d,
    "insert_zeros": moves.insert_zeros,
    "pad2d": moves.pad2d,
    "concat": moves.concat,
    "normalize": normalize,
    "affine": _affine,
    "matmul": accumulate,
    "softmax": softmax,
    "attention": attention,
    "rotary": rotary,
    "positions": positions,
}
"""The planner's rule for each row of the operator table."""
