"""value ==> the value whose memory it shares."""

from __future__ import annotations

import operator

import torch
from torch import fx

_aten = torch.ops.aten
_RETURNS_ITSELF = frozenset(
    {
        _aten.dropout.default,
        _aten.feature_dropout.default,
        _aten.alpha_dropout.default,
        _aten.feature_alpha_dropout.default,
        _aten.type_as.default,
    }
)
"""Operators that may return their argument, and whose schema does not say so."""


def shares_memory(node: fx.Node) -> bool:
    """The operator returns its first argument, a view of it, or one of several views."""
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and shares_memory(node.args[0])
    schema = getattr(node.target, "_schema", None)
    named = schema is not None and any(a.alias_info is not None and not a.alias_info.is_write for a in schema.arguments)
    return named or node.target in _RETURNS_ITSELF


def base(node: fx.Node) -> fx.Node:
    """The value that owns the memory behind `node`: itself, unless it is a view."""
    while shares_memory(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
