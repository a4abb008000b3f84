"""float program ==> the same with ``fxp::fake_quantize`` at every quantised edge and weight, scales already snapped."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.errors import PassError, PipelineError, RefusalError
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Context, Lossy, Pass, Promise
from ..evidence import Range
from .decision import Decision, Placement, RangeOf, islands
from .precision import ACTIVATION_BITS, WEIGHT_BITS, Precision, precisions, weighted_layers
from .recognize import Recognition, recognize
from .scales import Grid, Snapped

__all__ = ["PlaceQuantizers", "Placement", "place"]

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_NORMALIZED = frozenset({_aten.layer_norm.default, _aten.rms_norm.default})
METHODS = ("minmax", "percentile", "mse", "entropy")
_CHOICES: dict[str, tuple[object, ...]] = {
    "weight_bits": WEIGHT_BITS,
    "activation_bits": ACTIVATION_BITS,
    "edge_bits": WEIGHT_BITS,
    "ranges": METHODS,
    "border_ranges": METHODS,
}


@dataclass(frozen=True)
class PlaceQuantizers(Pass):
    """Decide where and how finely to quantise (catalogue row M213, HAWQ-V3), and insert the quantisers.

    Activations with zero point 0: u8 where no value can be negative, s8 elsewhere, or s16; symmetric weights per output
    channel; the last layer in 16 bits, and what normalisations and the residual sums between them read. Values that meet in a
    concatenation share a scale. HAWQ-V3 approximates the multipliers; here the scales are snapped, so that they are dyadic
    exactly.

    Options:
        weight_bits: 2 to 8.
        activation_bits: 8 or 16. 16-bit values take as many codes, at least 256, as the 32-bit sums of their readers allow.
        edge_bits: bits of the first and the last weighted layer's weights.
        ranges: of activations, ``minmax``, ``percentile``, ``mse`` or ``entropy`` on calibration data.
        border_ranges: the same for inputs and outputs.
        percentile: share of values that the range covers, in percent, for ``percentile``.
        input_floor: in dB; a layer whose result the rounding of its input to 8 bits alone would leave below it reads 16, at about
            twice its time (of pretrained MiniLM-L6 those around GELU; none of most networks). 0 leaves all layers 8 bits.
        integer_only: refuse a program that needs float islands.
        bits: of single layers by their nodes' names, which go before `weight_bits`, `activation_bits` and `edge_bits`:
            ``["fc1=w4", "fc2=w8a16"]``, as `allocate-bits` finds them.
    """

    name: ClassVar[str] = "place-quantizers"
    promise: ClassVar[Promise] = Lossy(15.0)
    gives: ClassVar[str | None] = "simulated"
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants", "fold-positions")
    needs: ClassVar[tuple[str, ...]] = (
        *("remove-noops", "fold-constants", "fold-positions", "compose-linear", "compose-rms-norm", "decompose-index"),
        *("decompose-unflatten", "decompose-roll", "decompose-pool1d", "decompose-attention", "compose-masks", "separate-masks"),
    )
    weight_bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    ranges: str = "minmax"
    border_ranges: str = "minmax"
    percentile: float = 99.99
    input_floor: float = 25.0
    integer_only: bool = False
    bits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, known in _CHOICES.items():
            if getattr(self, option) not in known:
                message = f"{option}={getattr(self, option)!r}"
                raise PipelineError(message, where=self.name, way_on=f"one of {', '.join(map(str, known))}")
        if not 0 <= self.input_floor <= 60:
            raise PipelineError(f"input_floor={self.input_floor!r}", where=self.name, way_on="0 to 60, in dB")
        if not 50 < self.percentile <= 100:
            raise PipelineError(f"percentile={self.percentile!r}", where=self.name, way_on="above 50, up to 100")
        precisions(self.bits, self.name)

    def apply(self, program: Program, context: Context) -> Program:
        return place(program, self.decide(program, context))

    def decide(self, program: Program, context: Context) -> Placement:
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
                reason, where=f"{self.name}, node {node.name}", way_on="rewrite it, or allow float islands: integer_only=false"
            )
            for refusal in context.refusals[-len(refused) :]:
                error.add_note(str(refusal))
            raise error
        chosen = self._precisions(recognition)
        ranges, floor = self._range_of(program, context), self.input_floor
        return Decision(program, recognition, ranges, lambda node: chosen[node], self.activation_bits, floor).plan()

    def _precisions(self, recognition: Recognition) -> dict[fx.Node, Precision]:
        """Of every weighted layer.

        Raises:
            PassError: `bits` names what is none.
        """
        named, layers = precisions(self.bits, self.name), weighted_layers(recognition)
        for name in named.keys() - layers.keys():
            close = difflib.get_close_matches(name, layers, n=1)
            way_on = f"did you mean {close[0]!r}?" if close else f"its layers are {', '.join(list(layers)[:3])} ..."
            raise PassError(f"bits names {name!r}, which is no layer with weights", where=self.name, way_on=way_on)
        edges = {*list(layers)[:1], *list(layers)[-1:]}
        return {
            node: named.get(name, Precision(self.edge_bits if name in edges else self.weight_bits, self.activation_bits))
            for name, node in layers.items()
        }

    def _range_of(self, program: Program, context: Context) -> RangeOf:
        def range_of(node: fx.Node, border: bool) -> Range:
            method = self.border_ranges if border else self.ranges
            if method == "minmax":
                return context.evidence.ranges(program)[node.name]
            return context.evidence.histograms(program)[node.name].range(method, self.percentile)

        return range_of


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
