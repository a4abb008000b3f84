"""y = op_(x) ==> y = op(x), where no live view of x could tell the difference; assertions ==> nothing."""

from __future__ import annotations

import re

import torch
from torch import fx

from .errors import CaptureError

_ASSERTIONS = re.compile(r"_assert|sym_constrain_range")
_ALIASING = "the tensor and a view of it are both used after the write"


def drop_assertions(graph: fx.Graph) -> None:
    """Erase the run-time assertions that export leaves; a program checks its inputs itself."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and _ASSERTIONS.search(str(node.target)):
            graph.erase_node(node)


def make_functional(graph: fx.Graph) -> None:
    """``y = op_(x)`` becomes ``y = op(x)`` and later readers of x read y, after a check that no view of x is alive.

    Raises:
        CaptureError: the write reaches an input, a weight, or a value that a live view shares.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        where = node.meta.get("source", node.name)
        written = node.args[0]
        if not isinstance(written, fx.Node) or written.op != "call_function":
            raise CaptureError(f"{node.target} writes to an input or a weight", where=where, way_on="write to a clone")
        later = [user for user in written.users if order[user] > order[node]]
        if _shares_memory(written) or any(_shares_memory(user) and user.users for user in written.users if user is not node):
            if later or _base(written).users.keys() - {node, written}:
                raise CaptureError(f"{node.target}: {_ALIASING}", where=where, way_on="use the operator that is not in place")
        name = schema.name.split("::")[1].removesuffix("_")
        functional = getattr(getattr(torch.ops.aten, name, None), schema.overload_name or "default", None)
        if functional is None:
            raise CaptureError(f"{node.target} has no functional form", where=where, way_on="use the operator that is not in place")
        node.target = functional
        for user in later:
            user.replace_input_with(written, node)


def _shares_memory(node: fx.Node) -> bool:
    """The operator returns a view of its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(a.alias_info is not None and not a.alias_info.is_write for a in schema.arguments)


def _base(node: fx.Node) -> fx.Node:
    while _shares_memory(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
