"""graph ==> for each node, which values are live while it runs."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from .aliases import base


def last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the values whose memory it uses last: itself, or through a view (the output node uses outputs)."""
    last = {base(used): node for node in graph.nodes for used in node.all_input_nodes}
    dying: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.nodes}
    for value, node in last.items():
        dying[node].append(value)
    return dying


def peak(graph: fx.Graph, size: Callable[[fx.Node], int]) -> int:
    """The largest sum of `size` over the values live at once; `size` is 0 for what does not count."""
    dying = last_uses(graph)
    live = most = 0
    for node in graph.nodes:
        live += size(node)
        most = max(most, live)
        live -= sum(size(value) for value in dying[node])
    return most
