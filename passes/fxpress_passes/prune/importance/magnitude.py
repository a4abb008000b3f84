"""||W||_2 over all that makes or reads an atom: rows of weights and biases of layers tied to it, columns of those that sum over it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from fxpress_ir.analysis.coupling import Group, Groups, coupled_groups
from torch import Tensor

from .context import Asked
from .places import places


def magnitude(asked: Asked) -> Mapping[str, Tensor]:
    """Li et al. 2017, section 3.1, with the L2 norm and over a whole coupled group, its readers too (Fang et al. 2023, eq. 4).

    Needs no data.
    """
    groups, found = coupled_groups(asked.program), {}
    nodes = {node.name: node for node in asked.program.graph.nodes}
    for group in asked.groups:
        constants = {
            str(used.target): None
            for name in (*group.producers, *group.consumers)
            for used in nodes[name].all_input_nodes
            if used.op == "get_attr"
        }
        squares = [_squares(asked.program.tensors[name], name, groups, group) for name in constants]
        if any(part is not None for part in squares):
            found[group.name] = torch.stack([part for part in squares if part is not None]).sum(0).sqrt()
    return found


def _squares(tensor: Tensor, name: str, groups: Groups, group: Group) -> Tensor | None:
    """Float64 [atoms]: sums over the entries of one tensor, None where none is the group's."""
    total = None
    for dim, labels in enumerate(groups.tensors.get(name, ())):
        here = None if labels is None else places(labels, groups, group)
        if here is not None:
            others = [other for other in range(tensor.dim()) if other != dim]
            squares = tensor.detach().double().square()
            sums = squares.sum(others) if others else squares
            added = torch.zeros(group.size + 1, dtype=torch.float64).index_add_(0, here, sums)[:-1]
            total = added if total is None else total + added
    return total
