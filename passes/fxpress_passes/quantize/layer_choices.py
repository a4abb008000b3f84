"""program, precisions ==> units of an allocation: layers with what each precision costs and how much it is expected to lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fxpress_ir import Program
from fxpress_ir.analysis.cost import macs
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..allocate.problem import Choice, Unit
from ..contract import Context
from ..evidence.sensitivity import MEASURES, Asked, Perturbation
from .precision import Precision, weighted_layers
from .recognize import recognize
from .recognized import Recognized
from .rounded import rounded_weight, rounds_input
from .sharing import site_of

LayerCosts = Callable[[str, Precision], Mapping[str, float]]
"""A layer's name and a precision ==> what it costs of other resources, ``latency`` in seconds; measured by whoever asks."""


@dataclass(frozen=True)
class Layer:
    """Layers that read one weight: their names, the tensor's name and elements, the axis of channels, their MACs at batch 1."""

    names: tuple[str, ...]
    weight: str
    elements: int
    axis: int
    macs: int

    def costs(self, precision: Precision) -> dict[str, float]:
        """``size`` in bytes of the weights, ``bops`` = MACs * bits * bits (HAWQ-V3)."""
        return {"size": self.elements * precision.weight / 8, "bops": float(self.macs * precision.weight * precision.activation)}


def layers_of(program: Program) -> list[Layer]:
    """The layers whose weights are quantised, in the graph's order; those that share a weight are one."""
    recognition, symbols = recognize(program.graph), dict.fromkeys(program.symbols(), 1)
    by_weight: dict[str, list[fx.Node]] = {}
    for node in weighted_layers(recognition).values():
        by_weight.setdefault(str(arguments(node)["weight"].target), []).append(node)
    found = []
    for weight, nodes in by_weight.items():
        what = recognition.found[nodes[0]]
        assert isinstance(what, Recognized)
        elements = program.tensors[weight].numel()
        names = tuple(node.name for node in nodes)
        found.append(Layer(names, weight, elements, what.channel_axis, sum(macs(node, symbols) for node in nodes)))
    return found


def units(
    program: Program,
    layers: Sequence[Layer],
    choices: Sequence[Precision],
    context: Context,
    *,
    measure: str,
    loss: str,
    costs: LayerCosts | None = None,
) -> tuple[Unit, ...]:
    """One unit a layer, one choice a precision, by the names that `Precision` prints.

    Raises:
        PassError: a sensitivity is NaN or infinite.
        CalibrationError: no usable calibration data.
    """
    perturbations = {
        (layer.names[0], precision): Perturbation(f"{layer.names[0]} {precision}", *_changes(program, layer, precision, choices, context))
        for layer in layers
        for precision in choices
    }
    found = MEASURES[measure](Asked(program, list(perturbations.values()), context, loss))
    made = []
    for layer in layers:
        own = []
        for precision in choices:
            lost = found[perturbations[layer.names[0], precision].name]
            if lost != lost or lost in (float("inf"), float("-inf")):
                raise PassError(
                    f"the {measure} of {precision} is {lost}",
                    where=f"allocate-bits, layer {layer.names[0]}",
                    way_on="repair the model and the data, or choose another measure",
                )
            others = {} if costs is None else costs(layer.names[0], precision)
            own.append(Choice(str(precision), lost, {**layer.costs(precision), **others}))
        made.append(Unit(layer.names[0], tuple(own), layer.names))
    return tuple(made)


def _changes(
    program: Program, layer: Layer, precision: Precision, choices: Sequence[Precision], context: Context
) -> tuple[Callable[[], Mapping[str, Tensor]], Mapping[str, Callable[[Tensor], Tensor]]]:
    """Inputs are rounded only where precisions differ in them: what all have in common decides nothing."""
    weights = {layer.weight: program.tensors[layer.weight].detach()}
    differ = len({choice.activation for choice in choices}) > 1
    inputs = {}
    if differ:
        recognition = recognize(program.graph)
        ranges, nodes = context.evidence.ranges(program), {node.name: node for node in program.graph.nodes}
        for name in layer.names:
            operand = arguments(nodes[name])["input"]
            site = site_of(operand, recognition)
            inputs[name] = rounds_input(ranges[site.name], precision.activation)
    return lambda: {name: rounded_weight(weight, precision.weight, layer.axis) for name, weight in weights.items()}, inputs
