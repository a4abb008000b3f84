"""embedding, matmul, softmax of ATen ==> rows of an integer table, a product of two activations, probabilities."""

from __future__ import annotations

from typing import Any

from fxpress_ir.analysis.sizes import largest
from torch import fx

from .recognized import Recognized

LONGEST = 1 << 16
"""Terms of a sum of products of bytes, or of exponentials: up to here it fits 32 bits."""


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
    if reason := too_long("products in a sum", operands[0].meta["val"].shape[-1]):
        return reason
    return Recognized("matmul", operands)


def softmax(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.softmax`` over the last dimension."""
    rank = node.meta["val"].dim()
    if named["dim"] % rank != rank - 1:
        return "it is not over the last dimension"
    return too_long("values in a row", node.meta["val"].shape[-1]) or Recognized("softmax", (named["self"],))


def too_long(what: str, size: Any) -> str | None:
    """Why a sum over a dimension, an int or a SymInt, may leave 32 bits."""
    most = largest(size)
    if most <= LONGEST:
        return None
    number = "any number of" if most >= 1 << 31 else f"up to {most}"
    return f"it has {number} {what}, {LONGEST} fit 32 bits (capture the dimension with Dim(max=N))"
