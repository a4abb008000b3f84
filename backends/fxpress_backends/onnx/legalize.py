"""Program and flavour ==> every reason why it cannot be lowered, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.analysis.sizes import largest
from fxpress_ir.dyadic import SHIFT_LIMIT_8
from fxpress_ir.ops import SIZE_OPERATORS, arguments, constant
from torch import Tensor, fx

from ..contract import Refusal
from ..reexport import island_nodes, read_values
from .shapes import computable, stretched
from .walk import DTYPES, ISLAND_DTYPES, Flavour, zero_point

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_INT32 = np.iinfo(np.int32)
_INT16 = np.iinfo(np.int16)


def refusals(program: Program, flavour: Flavour) -> tuple[Refusal, ...]:
    """What `flavour` cannot take of an integer or mixed program; unknown operators and types first, alone."""
    unknown = (*_operators(program, flavour), *_types(program), *_islands(program))
    return unknown or (*_sizes(program), *_shifts(program), *_ranges(program), *_windows(program), *_accumulators(program))


def _emitted(program: Program) -> list[fx.Node]:
    """The tensors that the walk computes: no sizes, no islands."""
    islands = island_nodes(program)
    calls = (node for node in program.graph.nodes if node.op == "call_function" and node not in islands)
    return [node for node in calls if isinstance(node.meta["val"], Tensor)]


def _operators(program: Program, flavour: Flavour) -> Iterator[Refusal]:
    for node in _emitted(program):
        if node.target not in flavour.emitters:
            yield Refusal(node.name, f"{node.target} has no emitter in {flavour.name}", "keep it out of the integer program")


def _types(program: Program) -> Iterator[Refusal]:
    islands = island_nodes(program)
    returned = [node for node in program.outputs() if node in islands]
    for node in (*program.placeholders(), *_emitted(program), *returned):
        free = node in islands or (node.op == "placeholder" and node.users and all(user in islands for user in node.users))
        if node.meta["val"].dtype not in (ISLAND_DTYPES if free else DTYPES):
            yield Refusal(node.name, f"{node.meta['val'].dtype} has no storage type", f"use {', '.join(map(str, DTYPES))}")
    for node in program.outputs():
        if node.op == "get_attr":
            yield Refusal(node.name, "the program returns a constant", "return computed values only")


def _islands(program: Program) -> Iterator[Refusal]:
    """s8 is stored as u8 with 128 added, which an operator in an island does not know."""
    islands = island_nodes(program)
    for node in read_values(program, islands):
        value = node.meta["val"]
        if value.dtype == torch.int8 and any(user in islands and user.target not in SIZE_OPERATORS for user in node.users):
            yield Refusal(node.name, "a float island reads it as s8", "dequantise it first")


def _sizes(program: Program) -> Iterator[Refusal]:
    """Two and more symbolic sizes are computed from the inputs' dimensions; channels that are summed are a number."""
    symbols = frozenset(program.symbols())
    for node in _emitted(program):
        symbolic: list[Any] = [s for s in node.meta["val"].shape if not isinstance(s, int)]
        computed = symbolic if len(symbolic) > 1 else []
        if node.target is _aten.expand.default:
            computed = [*computed, *(s for s in stretched(node) if not isinstance(s, int))]
        elif node.target is _aten.slice.Tensor and isinstance(arguments(node)["end"], fx.Node):
            computed = [*computed, *(s for s in [arguments(node)["end"].meta["val"]] if not isinstance(s, int))]
        unknown = [s for s in computed if not computable(s.node.expr, symbols)]
        if unknown:
            yield Refusal(node.name, f"size {unknown[0]} is not computed from the inputs' sizes", "mark the dimension static")
        elif node.target is _fxp.sum_pool2d.default and not isinstance(node.meta["val"].shape[1], int):
            yield Refusal(node.name, "the number of channels is symbolic", "mark the dimension static")
        elif node.target is _fxp.insert_zeros.default and not all(isinstance(s, int) for s in node.meta["val"].shape[2:]):
            yield Refusal(node.name, "the height or width is symbolic", "mark the dimension static")
        elif node.target is _aten.slice.Tensor and any(isinstance(arguments(node)[bound], fx.Node) for bound in ("start", "step")):
            yield Refusal(node.name, "the start or step of the slice is symbolic", "slice from a number to a size")


def _shifts(program: Program) -> Iterator[Refusal]:
    for node in program.graph.nodes:
        if node.target in (_fxp.requantize.default, _fxp.add.default):
            c = arguments(node)["c"]
            if not 1 <= c <= SHIFT_LIMIT_8:
                yield Refusal(node.name, f"shift {c} is outside [1, {SHIFT_LIMIT_8}]", "snap the scales to a smaller shift")


def _ranges(program: Program) -> Iterator[Refusal]:
    """int32 holds 16-bit values: what 8-bit and 16-bit storage cannot hold is refused."""
    for node in program.graph.nodes:
        if node.target in (_fxp.quantize.default, _fxp.requantize.default, _fxp.add.default):
            named = arguments(node)
            if named["dtype"] == torch.int32 and not (_INT16.min <= named["qmin"] and named["qmax"] <= _INT16.max):
                yield Refusal(node.name, f"range [{named['qmin']}, {named['qmax']}] is wider than 16 bits", "use a 16-bit result")
        elif node.target is _fxp.affine.default and arguments(node)["qmax"] + (1 << 31 - arguments(node)["c"]) < 0:
            what = f"a result of at most {arguments(node)['qmax']} with shift {arguments(node)['c']} needs more than 32 bits"
            yield Refusal(node.name, what, "use a smaller shift")


def _windows(program: Program) -> Iterator[Refusal]:
    """ONNX Runtime refuses such a MaxPool, and fuses a Pad with the lowest value in front of one into it."""
    for node in program.graph.nodes:
        if node.target is _fxp.max_pool2d.default:
            named = arguments(node)
            padding, x = list(named["padding"]), named["x"]
            while x.target is _fxp.pad2d.default and arguments(x)["value"] + zero_point(x) == 0:
                padding = [own + more for own, more in zip(padding, arguments(x)["padding"], strict=True)]
                x = arguments(x)["x"]
            if any(pad >= named["kernel"][side % 2] for side, pad in enumerate(padding)):
                yield Refusal(node.name, f"padding {padding} is not smaller than the window", "pad less")


def _accumulators(program: Program) -> Iterator[Refusal]:
    """Kernels add products of the stored u8 in any order, saturating, from zero, from the bias or from bias - zero point * sum w."""
    for node in program.graph.nodes:
        if node.target not in _RAW_BOUNDS:
            continue
        low, high = _RAW_BOUNDS[node.target](program, node)
        if low < _INT32.min or high > _INT32.max:
            way_on = "raise the weights' scale or split the layer"
            yield Refusal(node.name, f"the accumulator over u8 storage reaches [{low}, {high}], outside int32", way_on)


def _raw_bounds(program: Program, node: fx.Node) -> tuple[int, int]:
    """Bounds of every partial sum: the start, less 255 for each negative weight, more 255 for each positive one."""
    named = arguments(node)
    weight = constant(named["weight"], program.tensors)
    weight = weight.reshape(weight.shape[0], -1)
    bias = np.zeros(1, np.int64) if named["bias"] is None else constant(named["bias"], program.tensors)
    starts = (np.zeros(1, np.int64), bias, bias - zero_point(named["x"]) * weight.sum(1))
    down, up = np.minimum(weight, 0).sum(1) * 255, np.maximum(weight, 0).sum(1) * 255
    return min(int((start + down).min()) for start in starts), max(int((start + up).max()) for start in starts)


def _computed_bounds(program: Program, node: fx.Node) -> tuple[int, int]:
    """The same for two computed operands: the second is s8, or u8 less 128 with the zero point -128 that starts the sum."""
    x, y = (arguments(node)[operand] for operand in COMPUTED[node.target])
    reach = largest(x.meta["val"].shape[-1]) * 255 * (128 if y.meta["val"].dtype == torch.int8 else 255)
    return -reach, reach


COMPUTED: dict[Any, tuple[str, str]] = {_fxp.matmul.default: ("x", "y"), _fxp.attention.default: ("q", "k")}
"""Operators with products of two computed tensors, and the operands of the first."""
_RAW_BOUNDS: dict[Any, Callable[[Program, fx.Node], tuple[int, int]]] = {
    _fxp.conv2d.default: _raw_bounds,
    _fxp.linear.default: _raw_bounds,
    _fxp.matmul.default: _computed_bounds,
    _fxp.attention.default: _computed_bounds,
}
