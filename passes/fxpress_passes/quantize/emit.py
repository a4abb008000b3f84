"""recognised node, integer operands ==> integer operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from fxpress_ir import Edit
from fxpress_ir.digest import digest
from fxpress_ir.dyadic import SHIFT_LIMIT_16, shift_for
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments, quantize_channels
from torch import Tensor, fx

from .average import average_by_region
from .elementwise import tabulate
from .emit_sequence import SEQUENCES
from .recognize import Recognition
from .recognized import Recognized, Window
from .scales import BIAS_LIMIT, Grid, shift_limit
from .stored import Value, clamped, nearest, storage

_aten, _fxp = torch.ops.aten, torch.ops.fxp
SNAP_TOLERANCE = 1e-6
"""How far M * 2**c may lie from an integer, relative to it: float64 noise of three factors, far below half a step."""


class Emitter:
    """Writes integer operators at the insertion point of an edit."""

    def __init__(self, edit: Edit, recognition: Recognition) -> None:
        self.edit, self._recognition = edit, recognition
        self._kinds: dict[str, Callable[[fx.Node, Recognized, list[Value], Grid], fx.Node]] = {
            "weighted": self._weighted,
            "add": self._add,
            "product": self._product,
            "average": self._average,
            "interpolate": self._interpolate,
            "concat": self._concat,
            "table": self._table,
            **{kind: partial(rule, self) for kind, rule in SEQUENCES.items()},
        }
        self.units: dict[tuple[fx.Node, fx.Node], fx.Node] = {}
        self._weights: dict[str, fx.Node] = {}

    def border(self, site: fx.Node, grid: Grid) -> Value:
        """A float that becomes an integer."""
        parts = (site, grid.scale, grid.qmin, grid.qmax, storage(grid))
        return Value(self.edit.call(_fxp.quantize.default, *parts, like=site), grid)

    def emit(self, site: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> Value:
        """A value with a quantiser of its own.

        Raises:
            PassError: its scales are not snapped; it has no quantiser of its own in integers.
        """
        rule = self._kinds.get(what.kind)
        if rule is None:
            raise PassError(f"a {what.kind} cannot be quantised anew", where=f"to-integer, node {site.name}", way_on="quantise its input")
        return Value(rule(what.core or site, what, inputs, grid), grid)

    def pass_on(self, node: fx.Node, what: Recognized, value: Value) -> Value:
        """Maxima and moves keep their input's scale."""
        name = f"{node.name}_out"
        if what.kind == "split":
            return value
        if what.kind == "maximum":
            moved = self.edit.call(
                _fxp.max_pool2d.default, value.node, *_pool(what.window), list(_window(what).dilation), like=node, name=name
            )
        elif what.kind == "select":
            moved = self.edit.call(_fxp.select2d.default, value.node, list(what.rows), list(what.columns), like=node, name=name)
        elif what.kind == "pad":
            fill = nearest(what.fill, value.grid)
            moved = self.edit.call(_fxp.pad2d.default, value.node, list(what.padding), fill, like=node, name=name)
        elif what.part is not None:
            moved = self.edit.call(_aten.slice.Tensor, value.node, *what.part, like=node, name=name)
            if what.squeezes:
                moved = self.edit.call(_aten.squeeze.dim, moved, what.part[0], like=node)
        else:
            moved = self.edit.call(node.target, value.node, *node.args[1:], like=node, name=name)  # type: ignore[arg-type]
            moved.kwargs = node.kwargs
        return Value(moved, value.grid)

    def requantize(
        self,
        node: fx.Node,
        acc: fx.Node,
        real: Tensor,
        grid: Grid,
        bounds: tuple[float, float],
        axis: int = 1,
        *,
        exact: bool = True,
        name: str = "out",
    ) -> fx.Node:
        """b (int32) and c with b / 2**c == real: up to float64 noise where it has to be `exact`, else rounded."""
        c = shift_for(float(real.max()), limit=shift_limit(grid))
        steps = real * 2.0**c
        b = torch.round(steps).clamp_min(1)
        if exact and not bool(((steps - b).abs() <= SNAP_TOLERANCE * b).all()):
            where = f"to-integer, node {node.name}"
            raise PassError("its scales are not snapped to dyadics", where=where, way_on="snap scales again after changing them")
        factors = self.edit.add_tensor(f"{node.name}.multiplier", b.to(torch.int32))
        parts = (acc, factors, c, *clamped(grid, bounds), axis, storage(grid))
        return self.edit.call(_fxp.requantize.default, *parts, like=node, name=f"{node.name}_{name}")

    def _weighted(self, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
        assert what.weight is not None
        if what.weight.op == "get_attr":
            raise PassError(
                f"its weight {what.weight.target} is not quantised", where=f"to-integer, node {node.name}", way_on="quantise it"
            )
        quantizer = arguments(what.weight)
        axis = quantizer["axis"]
        weight, scales = self.edit.tensor(quantizer["x"]), self.edit.tensor(quantizer["scale"]).double()
        integers = quantize_channels(weight.detach(), scales, axis, quantizer["qmin"], quantizer["qmax"]).to(torch.int8)
        if what.spread is not None:
            integers, scales = _flipped(integers, what.groups), scales.repeat(what.groups)
        unit = inputs[0].grid.scale * scales
        bias = None
        if what.bias is not None:
            steps = torch.round(self.edit.tensor(what.bias).detach().double() / unit).clamp_(-BIAS_LIMIT, BIAS_LIMIT)
            bias = self.edit.add_tensor(f"{what.bias.target}.int32", steps.to(torch.int32))
        integer_weight, is_tied = self._stored(f"{quantizer['x'].target}.int8", integers)
        x = inputs[0].node
        if what.spread is not None and what.spread != (1, 1):
            x = self.edit.call(_fxp.insert_zeros.default, x, list(what.spread), like=node, name=f"{node.name}_spread")
        if what.window is None:
            acc = self.edit.call(_fxp.linear.default, x, integer_weight, bias, like=node, name=f"{node.name}_acc")
        else:
            acc = self._conv2d(node, x, integer_weight, bias, what.window, what.groups)
        channels = -1 if what.window is None else 1
        return self.requantize(node, acc, unit / grid.scale, grid, what.bounds, channels, exact=not is_tied)

    def _stored(self, name: str, weight: Tensor) -> tuple[fx.Node, bool]:
        """The node of a weight's integers, and whether another layer has them, too: only the first one's multipliers are exact."""
        key = digest(weight)
        is_tied = key in self._weights
        if not is_tied:
            self._weights[key] = self.edit.add_tensor(name, weight)
        return self._weights[key], is_tied

    def _conv2d(self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None, window: Window, groups: int) -> fx.Node:
        rest = (list(window.stride), list(window.padding), list(window.dilation), groups)
        return self.edit.call(_fxp.conv2d.default, x, weight, bias, *rest, like=node, name=f"{node.name}_acc")

    def narrow(self, value: Value, quantizer: fx.Node, grid: Grid) -> Value:
        """A value on another grid; the multiplier is rounded to 15 bits."""
        return Value(self._aligned(quantizer, value, grid), grid)

    def _add(self, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
        """The larger multiplier is dyadic exactly; the other is rounded to 14 or 15 bits (at most 2**-15 of its value)."""
        real = [value.grid.scale / grid.scale for value in inputs]
        c = shift_for(max(real), limit=SHIFT_LIMIT_16)
        left, right = (max(1, round(factor * 2.0**c)) for factor in real)
        rest = (left, what.sign * right, c, *clamped(grid, what.bounds), storage(grid))
        return self.edit.call(_fxp.add.default, inputs[0].node, inputs[1].node, *rest, like=node, name=f"{node.name}_out")

    def _product(self, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
        acc = self.edit.call(_fxp.multiply.default, inputs[0].node, inputs[1].node, like=node, name=f"{node.name}_acc")
        real = torch.tensor([inputs[0].grid.scale * inputs[1].grid.scale / grid.scale], dtype=torch.float64)
        return self.requantize(node, acc, real, grid, what.bounds)

    def _average(self, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
        def divided(sums: fx.Node, divisor: int, name: str = "out") -> fx.Node:
            real, exact = self._divided(divisor, inputs[0], grid), divisor == what.divisor
            return self.requantize(node, sums, real, grid, what.bounds, exact=exact, name=name)

        if what.regions:
            return average_by_region(self.edit, node, what, inputs[0].node, divided)
        sums = self.edit.call(_fxp.sum_pool2d.default, inputs[0].node, *_pool(what.window), like=node, name=f"{node.name}_sum")
        result = divided(sums, what.divisor)
        return result if what.keeps_rank else self.edit.call(_aten.flatten.using_ints, result, 1, like=node)

    def _interpolate(self, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
        places = self.edit.call(
            _fxp.select2d.default, inputs[0].node, list(what.rows), list(what.columns), like=node, name=f"{node.name}_near"
        )
        channels = node.meta["val"].shape[1]
        rows, columns = (torch.tensor(kernel, dtype=torch.int8) for kernel in what.kernel)
        kernel = torch.outer(rows, columns).expand(channels, 1, -1, -1).contiguous()
        weight = self.edit.add_tensor(f"{node.name}.kernel", kernel)
        acc = self._conv2d(node, places, weight, None, Window((len(rows), len(columns)), (1, 1)), channels)
        return self.requantize(node, acc, self._divided(what.divisor, inputs[0], grid), grid, what.bounds)

    @staticmethod
    def _divided(divisor: int, value: Value, grid: Grid) -> Tensor:
        return torch.tensor([value.grid.scale / (divisor * grid.scale)], dtype=torch.float64)

    def _concat(self, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
        parts = [self._aligned(node, value, grid) for value in inputs]
        return self.edit.call(_fxp.concat.default, parts, what.axis, like=node, name=f"{node.name}_out")

    def _aligned(self, node: fx.Node, value: Value, grid: Grid) -> fx.Node:
        """`value` at the scale and in the type of `grid`; the multiplier is rounded to 15 bits."""
        if value.grid.scale == grid.scale and storage(value.grid) == storage(grid):
            return value.node
        factor = value.grid.scale / grid.scale
        c = shift_for(factor, limit=shift_limit(grid))
        factors = self.edit.add_tensor(f"{node.name}.multiplier", torch.tensor([max(1, round(factor * 2.0**c))], dtype=torch.int32))
        parts = (value.node, factors, c, grid.qmin, grid.qmax, 1, storage(grid))
        return self.edit.call(_fxp.requantize.default, *parts, like=node, name=f"{value.node.name}_aligned")

    def _table(self, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
        root, real = what.operands[0], inputs[0].grid
        found, axis = tabulate(node, root, self._recognition.cones.inside(node), real.values(), self.edit.tensors)
        codes = _fxp.quantize(found, grid.scale, grid.qmin, grid.qmax, storage(grid))
        table = self.edit.add_tensor(f"{node.name}.table", codes.contiguous())
        operator = _fxp.lut16.default if real.bits == 16 else _fxp.lut.default
        return self.edit.call(operator, inputs[0].node, table, axis, like=node, name=f"{node.name}_out")


def _window(what: Recognized) -> Window:
    assert what.window is not None
    return what.window


def _pool(window: Window | None) -> tuple[list[int], list[int], list[int]]:
    assert window is not None
    return list(window.kernel), list(window.stride), list(window.padding)


def _flipped(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight [in, out / groups, h, w] as a convolution's [out, in / groups, h, w]."""
    inputs, outputs, *size = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *size).transpose(1, 2)
    return grouped.reshape(groups * outputs, inputs // groups, *size).flip(2, 3).contiguous()
