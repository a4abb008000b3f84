"""simulated program ==> integer program, node by node; pure rewriting, no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError, PipelineError, RefusalError
from fxpress_ir.ops import INTEGER_OPERATORS, LOGIC_OPERATORS, LOOKUP_OPERATORS, SHAPE_OPERATORS, SIZE_OPERATORS, arguments
from torch import Tensor, fx

from ..contract import Context, Lossy, Pass, Promise
from .drop_borders import drop_borders
from .emit import Emitter
from .masks import is_given
from .positions import compose_positions
from .recognize import Recognition, is_float, recognize
from .recognized import PASSES_ON, Recognized
from .scales import Grid
from .sharing import site_of
from .stored import Value

_fxp = torch.ops.fxp


@dataclass(frozen=True)
class ToInteger(Pass):
    """Replace fake quantisation by integer operators.

    Multipliers b and shifts c are read back from the scales, which were snapped so that they come out whole. Against the
    simulated program results differ where float32 arithmetic lands on the other side of a tie, and by the rounding of
    biases to whole steps of their accumulators. A weight that several layers share is stored once; its scales were snapped to
    the grids of the first, and the others' multipliers are rounded. What computes in floats between quantised values becomes a
    named island, and the result a ``mixed`` program.

    Options:
        io: ``float``, where ``fxp::quantize`` and ``fxp::dequantize`` stand at the ends; ``integer`` drops them, and the
            signature says what one step of each input and output is (`InputSpec.scale`, `Program.output_scales`).
        integer_only: refuse a program that needs islands.

    Raises:
        RefusalError: with io ``integer``, an input or output that is not quantised; with `integer_only`, an island, which may
            compute on integers and booleans alone.
        PassError: a scale was changed since it was snapped; a value that has an integer form is not quantised.
    """

    name: ClassVar[str] = "to-integer"
    promise: ClassVar[Promise] = Lossy(25.0)
    takes: ClassVar[tuple[str, ...]] = ("simulated",)
    gives: ClassVar[str | None] = "integer"
    after: ClassVar[tuple[str, ...]] = ("place-quantizers", "allocate-bits")
    io: str = "float"
    integer_only: bool = False

    def __post_init__(self) -> None:
        if self.io not in ("float", "integer"):
            raise PipelineError(f"io={self.io!r}", where=self.name, way_on="one of float, integer")

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        recognition = recognize(edit.graph)
        emitter = Emitter(edit, recognition)
        values: dict[fx.Node, Value] = {}
        for node in list(edit.graph.nodes):
            with edit.graph.inserting_before(node):
                if node.target is _fxp.fake_quantize.default and node.args[0] not in recognition.inside:
                    values[node] = _quantized(emitter, node, recognition, values)
                elif node.op == "output":
                    node.args = (tuple(_real(emitter, returned, recognition, values) for returned in node.args[0]),)
                elif node.op == "call_function":
                    _read(emitter, node, recognition, values)
        compose_positions(edit)
        apart = [node for node in _live(edit.graph) if _computes_in_floats(node)]
        if apart and self.integer_only:
            way_on = "rewrite it, or allow float islands: integer_only=false"
            raise RefusalError(f"{apart[0].target} has no integer form", where=f"{self.name}, node {apart[0].name}", way_on=way_on)
        islands = tuple(node.name for node in apart)
        result = edit.finish(stage="mixed" if islands else "integer", islands=islands)
        return drop_borders(result) if self.io == "integer" else result


def _quantized(emitter: Emitter, quantizer: fx.Node, recognition: Recognition, values: dict[fx.Node, Value]) -> Value:
    """The integer value behind a fake quantiser: its producer's accumulator requantised, its table, or a border."""
    named = arguments(quantizer)
    grid, site = Grid(named["scale"], named["qmin"], named["qmax"]), named["x"]
    what = Recognized("constant", ()) if site.op == "get_attr" else recognition.found.get(site)
    if site in values:
        return emitter.narrow(values[site], quantizer, grid)
    if not isinstance(what, Recognized):
        return emitter.border(site, grid)
    for operand in what.operands:
        if operand not in values:
            where = f"to-integer, node {(what.core or site).name}"
            raise PassError(f"reads {operand.name} unquantised", where=where, way_on="quantise it there")
    return emitter.emit(site, what, [values[operand] for operand in what.operands], grid)


def _read(emitter: Emitter, node: fx.Node, recognition: Recognition, values: dict[fx.Node, Value]) -> None:
    """A node that reads quantised values: it passes them on, waits for its quantiser, or computes in floats."""
    what = recognition.found.get(node)
    if node.target in SIZE_OPERATORS:
        source: fx.Node = arguments(node)["self"]
        node.replace_input_with(source, values[source].node if source in values else source)
    elif isinstance(what, Recognized) and what.kind in {*PASSES_ON, "pad"} and what.operands[0] in values:
        values[node] = emitter.pass_on(node, what, values[what.operands[0]])
    elif not isinstance(what, Recognized) and node not in recognition.inside:
        for used in node.all_input_nodes:
            node.replace_input_with(used, _real(emitter, used, recognition, values))


def _real(emitter: Emitter, node: fx.Node, recognition: Recognition, values: dict[fx.Node, Value]) -> fx.Node:
    """The float value of a node, through a border where it is an integer now."""
    value, site = values.get(node), site_of(node, recognition)
    if value is not None:
        return emitter.edit.call(_fxp.dequantize.default, value.node, value.grid.scale, like=value.node)
    if isinstance(recognition.found.get(site), Recognized):
        raise PassError("its result is not quantised", where=f"to-integer, node {site.name}", way_on="quantise it there")
    return node


def _live(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that reach an output, in order."""
    live = {graph.output_node()}
    for node in reversed(graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in live]


def _computes_in_floats(node: fx.Node) -> bool:
    """What the emitter made has no fake value yet; sizes are no tensors."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), (Tensor, tuple, list)):
        return False
    if node.target in SHAPE_OPERATORS | LOGIC_OPERATORS and not is_float(node):
        return not is_given(node)  # of an island's booleans it is part of the island
    return node.target not in INTEGER_OPERATORS and (node.target not in SHAPE_OPERATORS | LOOKUP_OPERATORS or is_float(node))
