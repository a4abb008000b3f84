"""wrap(mode, body, *args) ==> body(*args): a program runs without gradients, and autocast that is off changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .errors import CaptureError

_higher = torch.ops.higher_order
_BODY = {_higher.wrap_with_set_grad_enabled: 1, _higher.wrap_with_autocast: 4}
"""Position of the body among the arguments of each wrapper."""


def inline_wrappers(graph: fx.Graph, module: fx.GraphModule) -> None:
    """Replace each ``torch.no_grad`` or ``torch.autocast(enabled=False)`` block by its operators.

    Args:
        graph: a copy of the module's graph, which is changed.
        module: owner of the blocks' graphs.

    Raises:
        CaptureError: a block is under autocast, or another operator (``torch.cond``) holds graphs.
    """
    while wrappers := [node for node in graph.nodes if isinstance(node.target, torch._ops.HigherOrderOperator)]:
        for node in wrappers:
            _inline(graph, node, module)


def _inline(graph: fx.Graph, node: fx.Node, module: fx.GraphModule) -> None:
    where = node.meta.get("source", node.name)
    if node.target not in _BODY:
        raise CaptureError(f"{node.target} holds graphs of its own", where=where, way_on="use operators on tensors, such as torch.where")
    if node.target is _higher.wrap_with_autocast and node.args[2] is not False:
        raise CaptureError("runs under autocast", where=where, way_on="convert the model to one dtype and disable autocast")
    position = _BODY[node.target]
    holder: Any = node.args[position]
    body = fx.graph_module._get_attr(module, str(holder.target))
    copies: dict[fx.Node, Any] = dict(zip(body.graph.find_nodes(op="placeholder"), node.args[position + 1 :], strict=True))
    given = set(copies)
    with graph.inserting_before(node):
        returned: Any = graph.graph_copy(body.graph, copies)
    for original, copy in copies.items():
        if original not in given and copy.op == "get_attr":
            copy.target = f"{holder.target}.{original.target}"
    for item in list(node.users):
        item.replace_all_uses_with(returned[item.args[1]])
        graph.erase_node(item)
    graph.erase_node(node)
    if not holder.users:
        graph.erase_node(holder)
