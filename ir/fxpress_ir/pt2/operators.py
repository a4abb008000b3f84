"""``torch.ops.aten.add.Tensor`` ==> allowed: an operator that computes. Everything else that a name could reach is not."""

from __future__ import annotations

import re

import torch

_OVERLOAD = re.compile(r"torch\.ops\.(aten|prims|fxp)\.(\w+)\.(\w+)", re.ASCII)
_SIZES = {
    *("_operator.eq", "_operator.ne", "_operator.le", "_operator.ge", "_operator.lt", "_operator.gt", "_operator.and_", "_operator.or_"),
    *("_operator.neg", "_operator.pos", "_operator.add", "_operator.sub", "_operator.mul", "_operator.floordiv", "_operator.mod"),
    *("_operator.pow", "_operator.truediv", "math.trunc", "torch.sym_not", "torch.sym_int", "torch.sym_float", "torch.sym_ite"),
    *("torch.sym_max", "torch.sym_min", "torch.sym_sqrt", "torch._sym_sqrt"),
}
"""Python functions on sizes."""

_HIGHER = {
    *("torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.ops.higher_order.wrap_with_autocast"),
    *("torch.ops.higher_order.invoke_subgraph", "torch.ops.higher_order.cond", "torch.ops.higher_order.while_loop"),
    *("torch.ops.higher_order.scan", "torch.ops.higher_order.associative_scan", "torch.ops.higher_order.map_impl"),
}
"""Operators on graphs that compute; others compile, print, or call what a name stands for."""

_FILES = {"from_file", "save"}
"""Operators of ``aten`` that read or write the files that their arguments name."""


def is_operator(target: str) -> bool:
    """Whether a node of an archive may call `target`."""
    if target in _SIZES or target in _HIGHER:
        return True
    match = _OVERLOAD.fullmatch(target)
    if match is None or match[2] in _FILES:
        return False
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    return isinstance(packet, torch._ops.OpOverloadPacket) and match[3] in packet.overloads()  # type: ignore[no-untyped-call]
