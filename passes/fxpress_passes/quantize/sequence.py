"""embedding, matmul, softmax of ATen ==> rows of an integer table, a product of two activations, probabilities."""

from __future__ import annotations

from typing import Any

from torch import fx

from .recognized import Recognized


def embedding(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.embedding`` of a constant table."""
    if named["weight"].op != "get_attr":
        return "its table is computed, not constant"
    return Recognized("embedding", (), weight=named["weight"])


def matmul(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.matmul`` of two activations of equal ranks."""
    operands: tuple[fx.Node, fx.Node] = (named["self"], named["other"])
    ranks = [operand.meta["val"].dim() for operand in operands]
    if ranks[0] != ranks[1] or ranks[0] < 2:
        return f"it multiplies tensors of {ranks[0]} and {ranks[1]} dimensions"
    return Recognized("matmul", operands)


def softmax(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.softmax`` over the last dimension."""
    rank = node.meta["val"].dim()
    if named["dim"] % rank != rank - 1:
        return "it is not over the last dimension"
    return Recognized("softmax", (named["self"],))
