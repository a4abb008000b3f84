"""layer(x, f(constants)) ==> layer(x, weight): weights that the graph computes, such as normalised or fake-quantised ones, bit for bit."""

from __future__ import annotations

from fxpress_ir import Edit
from torch import Tensor, fx

from .constants import Constants
from .moves import MOVES
from .rules import PRODUCTS, SAME


def materialize(edit: Edit) -> bool:
    """Compute once the weights of layers that depend on no input; one that is only moved stays, and shares its memory."""
    constants = Constants(edit)
    computed: dict[fx.Node, None] = {}
    for node in edit.graph.nodes:
        if node.target in PRODUCTS and not constants.has(node):
            computed |= dict.fromkeys(used for used in node.all_input_nodes if constants.has(used) and not _is_moved(used))
    for node in computed:
        value = constants.value(node)
        assert isinstance(value, Tensor)
        with edit.graph.inserting_before(node):
            edit.replace(node, edit.add_tensor(f"folded.{node.name}", value.contiguous()))
    return bool(computed)


def _is_moved(node: fx.Node) -> bool:
    while node.op != "get_attr" and (node.target in MOVES or node.target in SAME) and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return node.op == "get_attr"
