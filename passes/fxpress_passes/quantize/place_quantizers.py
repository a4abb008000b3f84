"""float program ==> the same with ``fxp::fake_quantize`` at every quantised edge and weight, scales already snapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError, PipelineError, ProgramError, RefusalError
from fxpress_ir.ops import SIZE_OPERATORS, arguments
from torch import fx

from ..contract import Context, Lossy, Pass, Promise
from ..evidence import Range
from .recognize import Recognized, fused_rectifier, is_float, recognize
from .scales import Grid, Snapped, activation_grid, snap_output, snap_sum, snap_weight

_fxp = torch.ops.fxp
WEIGHT_BITS = (8, 4, 2)


@dataclass(frozen=True)
class Placement:
    """The plan: the grid of each quantised value and the scales of each weight, by the name of the node that has them."""

    activations: Mapping[str, Grid]
    weights: Mapping[str, Snapped]


@dataclass(frozen=True)
class PlaceQuantizers(Pass):
    """Decide where and how finely to quantise (catalogue row M213, HAWQ-V3), and insert the quantisers.

    8-bit activations with zero point 0: u8 where no value can be negative, s8 elsewhere; symmetric weights per output
    channel; the last layer in the 16-bit range. Activation ranges are the minimum and maximum on calibration data.
    HAWQ-V3 approximates the multipliers; here the scales are snapped, so that they are dyadic exactly.

    Options:
        weight_bits: 8, 4 or 2.
        integer_only: refuse a program that needs float islands (which later versions will offer).
    """

    name: ClassVar[str] = "place-quantizers"
    promise: ClassVar[Promise] = Lossy(15.0)
    gives: ClassVar[str | None] = "simulated"
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants")
    needs: ClassVar[tuple[str, ...]] = ("remove-noops",)
    weight_bits: int = 8
    integer_only: bool = False

    def __post_init__(self) -> None:
        if self.weight_bits not in WEIGHT_BITS:
            known = ", ".join(map(str, WEIGHT_BITS))
            raise PipelineError(f"weight_bits={self.weight_bits!r}", where=self.name, way_on=f"one of {known}")

    def apply(self, program: Program, context: Context) -> Program:
        return place(program, self.decide(program, context), self.weight_bits)

    def decide(self, program: Program, context: Context) -> Placement:
        """The plan for a program.

        Raises:
            RefusalError: an operator has no integer form.
            PassError: an output's range is too small for its layer's weights and inputs.
            CalibrationError: no usable calibration data.
        """
        found = {node: recognize(node) for node in program.graph.nodes if _computes_on_floats(node)}
        refused = {node: what for node, what in found.items() if isinstance(what, str)}
        for node, reason in refused.items():
            context.refuse(node, reason, "rewrite the model without it")
        if refused:
            node, reason = next(iter(refused.items()))
            error = RefusalError(reason, where=f"{self.name}, node {node.name}", way_on="only whole integer programs can be made")
            for refusal in context.refusals[-len(refused) :]:
                error.add_note(str(refusal))
            raise error
        known = {node: what for node, what in found.items() if isinstance(what, Recognized)}
        return _Decision(program, known, context.evidence.ranges(program), self.weight_bits).plan()


def _computes_on_floats(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target not in SIZE_OPERATORS and any(map(is_float, (node, *node.all_input_nodes)))


class _Decision:
    """One walk through the graph; each value's grid is known before its readers are reached."""

    def __init__(self, program: Program, found: Mapping[fx.Node, Recognized], ranges: Mapping[str, Range], bits: int) -> None:
        self.program, self.found, self.ranges, self.bits = program, found, ranges, bits
        self.grids: dict[fx.Node, Grid] = {}
        self.activations: dict[str, Grid] = {}
        self.weights: dict[str, Snapped] = {}

    def plan(self) -> Placement:
        for node in self.program.placeholders():
            if is_float(node) and any(user.op == "call_function" for user in node.users):
                seen = self.ranges[node.name]
                self._settle(node, activation_grid(seen.low, seen.high, unsigned=seen.low >= 0))
        for node, what in self.found.items():
            try:
                self._visit(node, what)
            except ProgramError as error:
                raise PassError(error.what, where=f"place-quantizers, node {node.name}", way_on=error.way_on) from error
        return Placement(self.activations, self.weights)

    def _visit(self, node: fx.Node, what: Recognized) -> None:
        if what.kind in ("maximum", "move"):
            self.grids[node] = self.grids[what.operands[0]]
        elif what.kind == "rectify" and what.operands[0] in self.grids:
            self._settle(node, snap_output(self.grids[what.operands[0]].scale, self._target(node, rectified=True)))
        elif what.kind == "rectify":
            producer = what.operands[0]
            self._accumulator(producer, self.found[producer], site=node)
        elif fused_rectifier(node) is None:
            self._accumulator(node, what, site=node)

    def _settle(self, site: fx.Node, grid: Grid) -> None:
        self.grids[site] = self.activations[site.name] = grid

    def _target(self, site: fx.Node, *, rectified: bool, nonnegative: bool = False, bits: int = 8) -> Grid:
        seen = self.ranges[site.name]
        return activation_grid(seen.low, seen.high, unsigned=rectified or nonnegative, bits=bits)

    def _accumulator(self, node: fx.Node, what: Recognized, site: fx.Node) -> None:
        inputs = [self.grids[operand] for operand in what.operands]
        rectified = site is not node
        if what.kind == "weighted":
            final = not rectified and all(user.op == "output" for user in node.users)
            target = self._target(site, rectified=rectified, bits=16 if final else 8)
            weight, bias = (None if part is None else self.program.tensors[str(part.target)] for part in (what.weight, what.bias))
            assert weight is not None
            self.weights[node.name] = snap_weight(weight, bias, inputs[0].scale, target, bits=self.bits)
        else:
            target = self._target(site, rectified=rectified, nonnegative=all(grid.qmin == 0 for grid in inputs))
            if what.kind == "add":
                target = snap_sum(inputs[0].scale, inputs[1].scale, target)
            else:
                target = snap_output(inputs[0].scale, target, divisor=what.divisor)
        self._settle(site, target)


def place(program: Program, plan: Placement, weight_bits: int = 8) -> Program:
    """Insert the quantisers that a plan names; a plan that was read, edited or stored works the same.

    Raises:
        PassError: the plan names a node that the program does not have.
    """
    unknown = sorted({*plan.activations, *plan.weights} - {node.name for node in program.graph.nodes})
    if unknown:
        raise PassError(f"the plan names {unknown[0]!r}", where="place-quantizers", way_on="use the plan of this very program")
    edit = program.edit()
    most = (1 << (weight_bits - 1)) - 1
    for original in program.graph.nodes:
        node = edit.here(original) if original.op != "output" else None
        if node is not None and node.name in plan.weights:
            weight: fx.Node = arguments(node)["weight"]
            scales = torch.tensor(plan.weights[node.name].scales, dtype=torch.float64)
            with edit.graph.inserting_before(node):
                scale = edit.add_tensor(f"{node.name}.scale", scales)
                quantized = edit.call(_fxp.fake_quantize_channels.default, weight, scale, 0, -most, most, name=f"{node.name}_weight_q")
            node.replace_input_with(weight, quantized)
        if node is not None and node.name in plan.activations:
            grid = plan.activations[node.name]
            readers = list(node.users)
            with edit.graph.inserting_after(node):
                quantized = edit.call(_fxp.fake_quantize.default, node, grid.scale, grid.qmin, grid.qmax, like=node, name=f"{node.name}_q")
            for reader in readers:
                reader.replace_input_with(node, quantized)
    return edit.finish(stage="simulated")
