"""ATen graph ==> what each node is in integers, or why it is nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from fxpress_ir.analysis.cones import CLAMPS, ELEMENTWISE, Cones, constant_axis, operands
from fxpress_ir.analysis.sizes import is_empty
from fxpress_ir.ops import SIZE_OPERATORS, arguments
from torch import Tensor, fx

from .attention import attention
from .elementwise import bounds
from .moved import is_constant
from .recognized import Recognized
from .rotary import rotary
from .structure import PAIRS, STRUCTURE

_fxp = torch.ops.fxp
_TAKES_CONSTANTS = frozenset({"add", "product", "concat", "move"})
_EMPTY = "it reads or makes a tensor without elements"
_QUANTIZERS = (_fxp.fake_quantize.default, _fxp.fake_quantize_channels.default)


def is_float(node: fx.Node) -> bool:
    """The node computes a floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def computes_on_floats(node: fx.Node) -> bool:
    """A call that reads or makes floating-point tensors; sizes are not among them."""
    return node.op == "call_function" and node.target not in SIZE_OPERATORS and any(map(is_float, (node, *node.all_input_nodes)))


@dataclass(frozen=True)
class Recognition:
    """What every node that computes on floats is, or why it is nothing, in program order.

    Attributes:
        found: by node.
        inside: nodes without a value of their own: accumulators before the clamp that bounds them, all but the last operator
            of a tabulated function or a pattern, and the moves of a pattern's tables.
        cones: the tabulated functions.
    """

    found: dict[fx.Node, Recognized | str]
    inside: frozenset[fx.Node]
    cones: Cones


def recognize(graph: fx.Graph) -> Recognition:
    """Recognise a whole graph; fake quantisers are values."""
    nodes = [node for node in graph.nodes if computes_on_floats(node) and node.target not in _QUANTIZERS]
    patterns = {node: _fitting(node, what) for node in nodes if (what := attention(node) or rotary(node)) is not None}
    parts = {part for what in patterns.values() if isinstance(what, Recognized) for part in what.parts}
    parts |= _tables(graph, patterns, parts)
    nodes = [node for node in nodes if node not in parts and node not in patterns]
    computing = frozenset(nodes)
    known = {node: _fitting(node, STRUCTURE[node.target](node, arguments_of(node))) for node in nodes if node.target in STRUCTURE}
    pairs = {node: _fitting(node, PAIRS[node.target](node, arguments(node))) for node in nodes if _pairs(node)}
    refused = {node: reason for node in nodes if node.target in ELEMENTWISE and (reason := _unfit(node))}
    while True:
        accumulators = {node for node, what in (known | pairs).items() if isinstance(what, Recognized) and what.accumulates}
        fused = {node: core for node in nodes if (core := _bounded(node, accumulators)) is not None}
        cones = Cones(graph, {*fused, *refused, *patterns, *parts})
        single = [node for node in pairs if cones.root(node) is not None]
        for node in single:  # both operands are functions of one value, so the result is one too
            del pairs[node]
        crossed = {tip: "its constants differ along more than one dimension" for tip in cones.tips if len(_axes(tip, cones)) > 1}
        if not single and not crossed:
            break
        refused |= {} if single else crossed
    known |= pairs
    found: dict[fx.Node, Recognized | str] = {}
    for node in graph.nodes:
        if node in patterns:
            found[node] = patterns[node]
        elif node not in computing:
            continue
        elif node in fused:
            what = known[fused[node]]
            found[node] = replace(what, core=fused[node], bounds=bounds(node)) if isinstance(what, Recognized) else what
        elif node in known:
            found[node] = known[node]
        elif node.target in ELEMENTWISE:
            found[node] = refused.get(node) or _table(node, cones)
        else:
            found[node] = f"{node.target} has no integer form"
    within = {node for node in nodes if cones.value(node) is not node} | set(fused.values()) | parts
    found |= {operand: Recognized("constant", ()) for operand in _constants(found)}
    return Recognition(found, frozenset(within), cones)


def arguments_of(node: fx.Node) -> dict[str, object]:
    """Arguments by name; Python operators have none."""
    return arguments(node) if isinstance(node.target, torch._ops.OpOverload) else {}


def _constants(found: dict[fx.Node, Recognized | str]) -> set[fx.Node]:
    """The constants that are read as activations are."""
    return {o for what in found.values() if isinstance(what, Recognized) for o in what.operands if o.op == "get_attr"}


def _tables(graph: fx.Graph, patterns: dict[fx.Node, Recognized | str], parts: set[fx.Node]) -> set[fx.Node]:
    """The moves of constants that patterns alone read, and not as values."""
    values = {operand for what in patterns.values() if isinstance(what, Recognized) for operand in what.operands}
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "call_function" and is_constant(node) and node not in values and parts | found >= node.users.keys():
            found.add(node)
    return found


def _pairs(node: fx.Node) -> bool:
    """Both operands are computed tensors, or one is a constant that no table can hold."""
    if node.target not in PAIRS or not all(isinstance(value, fx.Node) for value in node.args[:2]):
        return False
    constants = sum(value.op == "get_attr" for value in node.all_input_nodes)
    return not constants or (constants == 1 and isinstance(constant_axis(node), str))


def _bounded(node: fx.Node, accumulators: set[fx.Node]) -> fx.Node | None:
    """The accumulator that a clamp by numbers alone reads."""
    if node.target not in CLAMPS or len(node.all_input_nodes) != 1:
        return None
    source = node.all_input_nodes[0]
    return source if source in accumulators and len(source.users) == 1 else None


def _unfit(node: fx.Node) -> str | None:
    """Why an elementwise operator cannot be part of a table."""
    axis, values = constant_axis(node), operands(node)
    if is_empty(node.meta["val"]):
        return _EMPTY
    if not values:
        return "it computes on constants alone"
    if isinstance(axis, str):
        return axis
    for operand in values:
        if not is_float(operand):
            return f"its operand {operand.name} is not a float tensor"
        # as text, because a comparison of symbolic sizes would be remembered as a fact about them
        if len(values) == 1 and str(operand.meta["val"].shape) != str(node.meta["val"].shape):
            return "it broadcasts its operand"
    dtype = node.meta["val"].dtype
    return None if dtype == torch.float32 else f"it computes in {dtype}"


def _axes(tip: fx.Node, cones: Cones) -> set[int]:
    """The axes along which the constants of a tabulated function differ."""
    return {axis for part in cones.inside(tip) if isinstance(axis := constant_axis(part), int)}


def _table(node: fx.Node, cones: Cones) -> Recognized | str:
    root = cones.root(node)
    if root is None:
        return f"{node.target} of several values has no integer form"
    return Recognized("table", (root,), axis=next(iter(_axes(node, cones)), 1))


def _fitting(node: fx.Node, what: Recognized | str) -> Recognized | str:
    """`what`, or why the values that the node reads or makes have no integer form."""
    if isinstance(what, str):
        return what
    value = node.meta["val"]
    if isinstance(value, Tensor) and value.dtype != torch.float32:
        return f"it computes in {value.dtype}"
    if any(is_empty(used.meta.get("val")) for used in (node, *node.all_input_nodes, *what.operands)):
        return _EMPTY
    for operand in what.operands:
        if operand.op == "get_attr" and what.kind not in _TAKES_CONSTANTS:
            return f"its operand {operand.target} is constant"
        if not is_float(operand) and what.part is None:
            return f"its operand {operand.name} is not a float tensor"
    if (what.window or what.rows) and what.operands[0].meta["val"].dim() != 4:
        return "its input is one image without a batch dimension"
    return what
