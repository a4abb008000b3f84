"""Why a small branch beside a layer stays: the first operator in it that is not linear in the layer's input."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import LOGIC_OPERATORS
from torch import fx

from ...contract import Context
from .composition import between, is_noop, may_be_affine, varying
from .constants import Constants
from .layers import Layer, layer_of

_aten = torch.ops.aten
_SUMS = (_aten.add.Tensor, _aten.sub.Tensor)
_FACTORS = (_aten.mul.Tensor, _aten.div.Tensor)
_CHOICES = LOGIC_OPERATORS | {
    *(_aten.softmax.int, _aten._softmax.default, _aten.topk.default, _aten.argmax.default, _aten.max.dim, _aten.sort.default),
    *(_aten.gather.default, _aten.scatter.src, _aten.scatter.value, _aten.index.Tensor, _aten.where.self, _aten.one_hot.default),
}
"""Operators by which a router chooses."""
_MIXING = (_aten.scaled_dot_product_attention.default, _aten.matmul.default, _aten.bmm.default)
"""Operators that, between two values of the input, are attention: no adapter of one layer."""
_MOST = 64
"""Operators in a branch beyond which it is the rest of a model and no adapter of a layer."""


def refuse_branches(edit: Edit, context: Context) -> None:
    """Refuse every branch that has fewer parameters than the layer beside it and depends on that layer's input alone, not linearly."""
    constants, refused = Constants(edit), {refusal.node for refusal in context.refusals}
    for node in list(edit.graph.nodes):
        layer = layer_of(node, constants)
        if layer is None or layer.kind == "normalisation":
            continue
        for join, branch in _joins(layer, constants):
            parts = _branch(branch, {layer.source, layer.node}, constants)
            curved = [part for part in parts if not may_be_affine(part, constants)]
            small = 0 < _parameters(parts, constants) < _parameters([layer.node], constants)
            if join.name not in refused and small and (curved or join.target in _FACTORS):
                refused.add(join.name)
                context.refuse(join, _reason(join, layer, curved or parts), "it stays beside the layer")
    for join in edit.graph.find_nodes(op="call_function", target=_aten.add.Tensor):
        read = _side(join, constants) if join.name not in refused else None
        if read is not None:
            context.refuse(join, f"a side network is added, which reads {' and '.join(read)}", "it is no branch of one layer: it stays")


def _joins(layer: Layer, constants: Constants) -> Iterator[tuple[fx.Node, fx.Node]]:
    """(sum or product, the other operand) that the layer's result enters, through what leaves it as it is."""
    todo = [layer.node]
    while todo:
        node = todo.pop()
        for user in node.users:
            if user.target in _SUMS + _FACTORS:
                yield from ((user, other) for other in varying(user, constants) if other is not node)
            if is_noop(user) or (user.target in _FACTORS and varying(user, constants) == [node]):
                todo.append(user)


def _branch(end: fx.Node, sources: set[fx.Node], constants: Constants) -> list[fx.Node]:
    """The operators from `sources` to `end`; none where `end` depends on more, or is attention."""
    found, todo = set[fx.Node](), [end]
    while todo:
        node = todo.pop()
        if node in found or node in sources:
            continue
        used = varying(node, constants)
        if node.op != "call_function" or not used or len(found) == _MOST or (node.target in _MIXING and len(used) > 1):
            return []
        found.add(node)
        todo += used
    return sorted(found)


def _side(join: fx.Node, constants: Constants) -> list[str] | None:
    """What a smaller network that one term of a sum ends reads of the other term's, in more than one place."""
    terms = varying(join, constants)
    for end, other in ((first, second) for first in terms for second in terms if first is not second):
        above = set(between(other, [], constants))
        parts = _branch(end, above, constants)
        read = sorted({used for part in parts for used in varying(part, constants) if used in above})
        curved = any(not may_be_affine(part, constants) for part in parts)
        layers = [part for part in parts if layer_of(part, constants) is not None]
        if len(read) > 1 and curved and len(layers) > 1 and _parameters(parts, constants) < _parameters([*above], constants):
            return [node.name for node in read]
    return None


def _parameters(parts: list[fx.Node], constants: Constants) -> int:
    tensors, todo = set[fx.Node](), [used for part in parts for used in part.all_input_nodes if constants.has(used)]
    while todo:
        node = todo.pop()
        tensors |= {node} if node.op == "get_attr" else set()
        todo += node.all_input_nodes
    return sum(node.meta["val"].numel() for node in tensors)


def _reason(join: fx.Node, layer: Layer, curved: list[fx.Node]) -> str:
    if join.target in _FACTORS:
        return f"the factor of {layer.node.name} depends on the input ({curved[0].name})"
    chosen = [part for part in curved if part.target in _CHOICES]
    if chosen:
        return f"what is added to {layer.node.name} is chosen by the input ({chosen[0].name})"
    return f"what is added to {layer.node.name} is not linear in its input ({curved[0].name})"
