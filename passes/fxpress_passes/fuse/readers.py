"""A value ==> what computes with it; who asks for its size alone does not. A constant ==> all that read it."""

from __future__ import annotations

from fxpress_ir.ops import SIZE_OPERATORS
from torch import fx


def readers(value: fx.Node) -> list[fx.Node]:
    return [user for user in value.users if user.target not in SIZE_OPERATORS]


def holders(constant: fx.Node) -> set[fx.Node]:
    """Who reads the tensor that a ``get_attr`` node names, by this node or by another."""
    return {user for node in constant.graph.find_nodes(op="get_attr") if node.target == constant.target for user in node.users}


def sizes_of(value: fx.Node) -> list[fx.Node]:
    """Who asks for its size."""
    return [user for user in value.users if user.target in SIZE_OPERATORS]
