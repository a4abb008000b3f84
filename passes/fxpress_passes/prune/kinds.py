"""group ==> what its atoms are: channels, heads of attention, or features of a stream that norms count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.analysis.coupling import Group, Groups
from torch import fx

_aten = torch.ops.aten
_PRODUCTS = {
    *(_aten.matmul.default, _aten.bmm.default, _aten.baddbmm.default),
    _aten.scaled_dot_product_attention.default,
}


@dataclass(frozen=True)
class Kind:
    """What a group's atoms are, as in ``prune-{name}``, and why that is so."""

    name: str
    reason: str


def kind_of(group: Group, groups: Groups, program: Program) -> Kind:
    """Heads run side by side through a product of two computed values; features are counted by a norm, or looked up in a table."""
    nodes = {node.name: node for node in program.graph.nodes}
    if group.inexact:
        return Kind("width", group.inexact)
    if any(_runs_beside(node, groups, group) for node in program.graph.nodes if node.target in _PRODUCTS):
        return Kind("heads", "its atoms are heads of attention")
    if any(nodes[name].target is _aten.embedding.default for name in group.producers):
        return Kind("width", "a table of embeddings makes it")
    return Kind("channels", "its atoms are channels or hidden units")


def _runs_beside(node: fx.Node, groups: Groups, group: Group) -> bool:
    """The group lies along a dimension of a product that is neither rows nor columns."""
    atoms = groups.labels(group.name)
    return any(labels is not None and bool(np.isin(labels, atoms).any()) for labels in groups.dimensions(node)[:-2])
