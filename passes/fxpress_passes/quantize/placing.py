"""float program, the precision of each layer ==> a plan of quantisers; program, plan ==> the program with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.errors import PassError, PipelineError, RefusalError
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Context
from ..evidence import Range
from .decision import Decision, Placement, RangeOf, islands
from .precision import ACTIVATION_BITS, Precision
from .recognize import Recognition, recognize
from .scales import Grid, Snapped

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_NORMALIZED = frozenset({_aten.layer_norm.default, _aten.rms_norm.default})
METHODS = ("minmax", "percentile", "mse", "entropy")
PrecisionsOf = Callable[[Recognition], Mapping[fx.Node, Precision]]
"""A recognised graph ==> the precision of every layer with weights."""


@dataclass(frozen=True)
class Placing:
    """What passes that place quantisers have in common; `PlaceQuantizers` says what each means.

    Attributes:
        where: the pass's name, for errors.
    """

    where: str
    activation_bits: int = 8
    ranges: str = "minmax"
    border_ranges: str = "minmax"
    percentile: float = 99.99
    input_floor: float = 25.0
    integer_only: bool = False

    def __post_init__(self) -> None:
        check_choice("activation_bits", self.activation_bits, ACTIVATION_BITS, self.where)
        check_choice("ranges", self.ranges, METHODS, self.where)
        check_choice("border_ranges", self.border_ranges, METHODS, self.where)
        if not 0 <= self.input_floor <= 60:
            raise PipelineError(f"input_floor={self.input_floor!r}", where=self.where, way_on="0 to 60, in dB")
        if not 50 < self.percentile <= 100:
            raise PipelineError(f"percentile={self.percentile!r}", where=self.where, way_on="above 50, up to 100")

    def decide(self, program: Program, context: Context, precisions: PrecisionsOf) -> Placement:
        """The plan for a program.

        Raises:
            RefusalError: an operator has no integer form, with `integer_only`.
            PassError: an output's range is too small for its layer's weights and inputs.
            CalibrationError: no usable calibration data.
        """
        recognition = recognize(program.graph)
        refused = islands(recognition)
        for node, reason in refused.items():
            context.refuse(node, reason, "it stays in floats" if not self.integer_only else "rewrite the model without it")
        if refused and self.integer_only:
            node, reason = next(iter(refused.items()))
            error = RefusalError(
                reason, where=f"{self.where}, node {node.name}", way_on="rewrite it, or allow float islands: integer_only=false"
            )
            for refusal in context.refusals[-len(refused) :]:
                error.add_note(str(refusal))
            raise error
        chosen = precisions(recognition)
        ranges, floor = self._range_of(program, context), self.input_floor
        return Decision(program, recognition, ranges, lambda node: chosen[node], self.activation_bits, floor).plan()

    def _range_of(self, program: Program, context: Context) -> RangeOf:
        def range_of(node: fx.Node, border: bool) -> Range:
            method = self.border_ranges if border else self.ranges
            if method == "minmax":
                return context.evidence.ranges(program)[node.name]
            return context.evidence.histograms(program)[node.name].range(method, self.percentile)

        return range_of


def check_choice(option: str, value: object, known: tuple[object, ...], where: str) -> None:
    """Hold an option to its values.

    Raises:
        PipelineError: it is none of them.
    """
    if value not in known:
        raise PipelineError(f"{option}={value!r}", where=where, way_on=f"one of {', '.join(map(str, known))}")


def place(program: Program, plan: Placement) -> Program:
    """Insert the quantisers that a plan names; a plan that was read, edited or stored works the same.

    Raises:
        PassError: the plan names a node that the program does not have.
    """
    unknown = sorted({*plan.activations, *plan.weights, *plan.narrowed} - {node.name for node in program.graph.nodes})
    if unknown:
        raise PassError(f"the plan names {unknown[0]!r}", where="place-quantizers", way_on="use the plan of this very program")
    edit = program.edit()
    by_name = {node.name: edit.here(node) for node in program.graph.nodes if node.op != "output"}
    for node in by_name.values():
        if node.name in plan.weights:
            _quantize_weight(edit, node, plan.weights[node.name])
        stored = node
        if node.name in plan.activations:
            stored = _quantize(edit, node, plan.activations[node.name], list(node.users), node)
        if node.name in plan.narrowed:
            narrowed = plan.narrowed[node.name]
            # a normalised value is rounded to either grid from the same 32 bits; others are taken as they were stored
            source = node if node.target in _NORMALIZED else stored
            _quantize(edit, source, narrowed.grid, [by_name[name] for name in narrowed.readers], stored)
    return edit.finish(stage="simulated")


def _quantize(edit: Edit, node: fx.Node, grid: Grid, readers: list[fx.Node], read: fx.Node) -> fx.Node:
    """A quantiser of `node`, which `readers` read in place of `read`."""
    with edit.graph.inserting_after(read):
        quantized = edit.call(_fxp.fake_quantize.default, node, grid.scale, grid.qmin, grid.qmax, like=node, name=f"{node.name}_q")
    for reader in readers:
        reader.replace_input_with(read, quantized)
    return quantized


def _quantize_weight(edit: Edit, node: fx.Node, chosen: Snapped) -> None:
    weight: fx.Node = arguments(node)["weight"]
    most = (1 << (chosen.bits - 1)) - 1
    with edit.graph.inserting_before(node):
        scale = edit.add_tensor(f"{node.name}.scale", torch.tensor(chosen.scales, dtype=torch.float64))
        parts = (weight, scale, chosen.axis, -most, most)
        quantized = edit.call(_fxp.fake_quantize_channels.default, *parts, name=f"{node.name}_weight_q")
    node.replace_input_with(weight, quantized)
