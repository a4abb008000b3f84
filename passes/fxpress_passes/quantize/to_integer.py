"""simulated program ==> integer program, node by node; pure rewriting, no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.dyadic import SHIFT_LIMIT_8, SHIFT_LIMIT_16, shift_for
from fxpress_ir.errors import PassError
from fxpress_ir.ops import SIZE_OPERATORS, arguments, quantize_channels
from torch import Tensor, fx

from ..contract import Context, Lossy, Pass, Promise
from .recognize import Recognized, recognize
from .scales import BIAS_LIMIT, Grid

_aten, _fxp = torch.ops.aten, torch.ops.fxp
SNAP_TOLERANCE = 1e-6
"""How far M * 2**c may lie from an integer, relative to it: float64 noise of three factors, far below half a step."""


@dataclass(frozen=True)
class _Value:
    """An integer value of the new program and the real number that one step of it stands for."""

    node: fx.Node
    grid: Grid


@dataclass(frozen=True)
class ToInteger(Pass):
    """Replace fake quantisation by integer operators.

    Multipliers b and shifts c are read back from the scales, which were snapped so that they come out whole. Against the
    simulated program results differ where float32 arithmetic lands on the other side of a tie, and by the rounding of
    biases to whole steps of their accumulators.

    Raises:
        PassError: a scale was changed since it was snapped; a value reaches an operator unquantised.
    """

    name: ClassVar[str] = "to-integer"
    promise: ClassVar[Promise] = Lossy(25.0)
    takes: ClassVar[tuple[str, ...]] = ("simulated",)
    gives: ClassVar[str | None] = "integer"
    after: ClassVar[tuple[str, ...]] = ("place-quantizers",)

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        values: dict[fx.Node, _Value] = {}
        for node in list(edit.graph.nodes):
            with edit.graph.inserting_before(node):
                if node.target is _fxp.fake_quantize.default:
                    values[node] = _quantized(edit, node, values)
                elif node.op == "call_function" and any(used in values for used in node.all_input_nodes):
                    _move(edit, node, values)
                elif node.op == "output":
                    _return(edit, node, values)
        return edit.finish(stage="integer")


def _quantized(edit: Edit, quantizer: fx.Node, values: dict[fx.Node, _Value]) -> _Value:
    """The integer value behind a fake quantiser: its producer's accumulator, requantised."""
    named = arguments(quantizer)
    grid, site = Grid(named["scale"], named["qmin"], named["qmax"]), named["x"]
    if site.op == "placeholder":
        return _Value(edit.call(_fxp.quantize.default, site, grid.scale, grid.qmin, grid.qmax, _dtype(grid), like=site), grid)
    core = site
    if site.target is _aten.relu.default:
        grid = Grid(grid.scale, max(grid.qmin, 0), grid.qmax)
        core = site if site.args[0] in values else site.args[0]
    what = recognize(core)
    if isinstance(what, str) or what.kind not in _EMITTERS:
        reason = what if isinstance(what, str) else f"a {what.kind} cannot be quantised anew"
        raise PassError(reason, where=f"to-integer, node {core.name}", way_on="place quantisers with place-quantizers")
    for operand in what.operands:
        if operand not in values:
            raise PassError(f"reads {operand.name} unquantised", where=f"to-integer, node {core.name}", way_on="quantise it there")
    return _Value(_EMITTERS[what.kind](edit, core, what, [values[operand] for operand in what.operands], grid), grid)


def _dtype(grid: Grid) -> torch.dtype:
    """u8 or s8; a 16-bit value is held in int32, as every backend holds it."""
    if grid.bits == 16:
        return torch.int32
    return torch.uint8 if grid.qmin == 0 else torch.int8


def _multipliers(node: fx.Node, real: Tensor, grid: Grid) -> tuple[Tensor, int]:
    """b (int32) and c with b / 2**c == real, which has to hold exactly up to float64 noise."""
    c = shift_for(float(real.max()), limit=SHIFT_LIMIT_16 if grid.bits == 16 else SHIFT_LIMIT_8)
    steps = real * 2.0**c
    b = torch.round(steps)
    if not bool(((steps - b).abs() <= SNAP_TOLERANCE * b.clamp_min(1)).all()):
        raise PassError(
            "its scales are not snapped to dyadics", where=f"to-integer, node {node.name}", way_on="snap scales again after changing them"
        )
    return b.to(torch.int32), c


def _requantize(edit: Edit, node: fx.Node, acc: fx.Node, real: Tensor, grid: Grid, axis: int) -> fx.Node:
    b, c = _multipliers(node, real, grid)
    factors = edit.add_tensor(f"{node.name}.multiplier", b)
    return edit.call(_fxp.requantize.default, acc, factors, c, grid.qmin, grid.qmax, axis, _dtype(grid), like=node, name=f"{node.name}_out")


def _weighted(edit: Edit, node: fx.Node, what: Recognized, inputs: list[_Value], grid: Grid) -> fx.Node:
    assert what.weight is not None
    if what.weight.op == "get_attr":
        raise PassError(f"its weight {what.weight.target} is not quantised", where=f"to-integer, node {node.name}", way_on="quantise it")
    quantizer = arguments(what.weight)
    weight, scales = edit.tensor(quantizer["x"]), edit.tensor(quantizer["scale"]).double()
    integers = quantize_channels(weight.detach(), scales, 0, quantizer["qmin"], quantizer["qmax"]).to(torch.int8)
    unit = inputs[0].grid.scale * scales
    bias = None
    if what.bias is not None:
        steps = torch.round(edit.tensor(what.bias).detach().double() / unit).clamp_(-BIAS_LIMIT, BIAS_LIMIT)
        bias = edit.add_tensor(f"{what.bias.target}.int32", steps.to(torch.int32))
    integer_weight = edit.add_tensor(f"{quantizer['x'].target}.int8", integers)
    operands = (inputs[0].node, integer_weight, bias)
    if what.window is None:
        acc, axis = edit.call(_fxp.linear.default, *operands, like=node, name=f"{node.name}_acc"), -1
    else:
        window = what.window
        rest = (list(window.stride), list(window.padding), list(window.dilation), what.groups)
        acc, axis = edit.call(_fxp.conv2d.default, *operands, *rest, like=node, name=f"{node.name}_acc"), 1
    return _requantize(edit, node, acc, unit / grid.scale, grid, axis)


def _add(edit: Edit, node: fx.Node, what: Recognized, inputs: list[_Value], grid: Grid) -> fx.Node:
    """The larger multiplier is dyadic exactly; the other is rounded to 14 or 15 bits (at most 2**-15 of its value)."""
    real = [value.grid.scale / grid.scale for value in inputs]
    c = shift_for(max(real), limit=SHIFT_LIMIT_16)
    left, right = (max(1, round(factor * 2.0**c)) for factor in real)
    rest = (left, right, c, grid.qmin, grid.qmax, _dtype(grid))
    return edit.call(_fxp.add.default, inputs[0].node, inputs[1].node, *rest, like=node, name=f"{node.name}_out")


def _average(edit: Edit, node: fx.Node, what: Recognized, inputs: list[_Value], grid: Grid) -> fx.Node:
    window = what.window
    assert window is not None
    parts = (list(window.kernel), list(window.stride), list(window.padding))
    sums = edit.call(_fxp.sum_pool2d.default, inputs[0].node, *parts, like=node, name=f"{node.name}_sum")
    real = torch.tensor([inputs[0].grid.scale / (what.divisor * grid.scale)], dtype=torch.float64)
    result = _requantize(edit, node, sums, real, grid, 1)
    return result if what.keeps_rank else edit.call(_aten.flatten.using_ints, result, 1, like=node)


def _rectify(edit: Edit, node: fx.Node, what: Recognized, inputs: list[_Value], grid: Grid) -> fx.Node:
    real = torch.tensor([inputs[0].grid.scale / grid.scale], dtype=torch.float64)
    return _requantize(edit, node, inputs[0].node, real, grid, 1)


_EMITTERS: dict[str, Callable[[Edit, fx.Node, Recognized, list[_Value], Grid], fx.Node]] = {
    "weighted": _weighted,
    "add": _add,
    "average": _average,
    "rectify": _rectify,
}


def _move(edit: Edit, node: fx.Node, values: dict[fx.Node, _Value]) -> None:
    """Maxima and shape operators keep their input's scale; accumulators wait for their quantiser."""
    if node.target in SIZE_OPERATORS:
        node.replace_input_with(node.args[0], values[node.args[0]].node)  # type: ignore[arg-type, index]
        return
    what = recognize(node)
    if isinstance(what, str) or what.kind not in ("maximum", "move"):
        return
    value = values[what.operands[0]]
    if what.kind == "maximum":
        window = what.window
        assert window is not None
        parts: list[Any] = [list(window.kernel), list(window.stride), list(window.padding), list(window.dilation)]
        moved = edit.call(_fxp.max_pool2d.default, value.node, *parts, like=node, name=f"{node.name}_out")
    else:
        moved = edit.call(node.target, value.node, *node.args[1:], like=node, name=f"{node.name}_out")  # type: ignore[arg-type]
        moved.kwargs = node.kwargs
    values[node] = _Value(moved, value.grid)


def _return(edit: Edit, output: fx.Node, values: dict[fx.Node, _Value]) -> None:
    returned = []
    for node in output.args[0]:  # type: ignore[union-attr]
        value = values.get(node)  # type: ignore[arg-type]
        returned.append(node if value is None else edit.call(_fxp.dequantize.default, value.node, value.grid.scale, like=value.node))
    output.args = (tuple(returned),)
