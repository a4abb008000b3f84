"""x * cos + cat(-x[half:], x[:half]) * sin ==> fxp.rotary."""

from __future__ import annotations

import math
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.dyadic import SHIFT_LIMIT_16
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .moved import is_constant, moved, source_of
from .recognized import Recognized
from .scales import SHORT_LIMIT, Grid

_aten, _fxp = torch.ops.aten, torch.ops.fxp


def rotary(node: fx.Node) -> Recognized | None:
    """What a sum of two products is, where it turns pairs of values by constant angles."""
    if node.target is not _aten.add.Tensor or arguments(node)["alpha"] != 1:
        return None
    operands: tuple[Any, Any] = (node.args[0], node.args[1])
    for straight, crossed in (operands, operands[::-1]):
        for x, cosine in _factors(straight):
            for half, sine in _factors(crossed):
                parts = _turned(half, x)
                if not (parts and is_constant(cosine) and is_constant(sine)):
                    continue
                parts = (straight, crossed, *parts)
                if all(user is node or user in parts for part in parts for user in part.users):
                    return Recognized("rotary", (x,), cosine=cosine, sine=sine, parts=parts)
    return None


def _factors(node: Any) -> list[tuple[Any, Any]]:
    if not isinstance(node, fx.Node) or node.target is not _aten.mul.Tensor or not all(isinstance(arg, fx.Node) for arg in node.args[:2]):
        return []
    return [(node.args[0], node.args[1]), (node.args[1], node.args[0])]


def _turned(node: Any, x: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes of ``cat(-x[..., half:], x[..., :half])``; nothing where `node` is something else."""
    if not isinstance(node, fx.Node) or node.target is not _aten.cat.default:
        return ()
    named, size = arguments(node), node.meta["val"].shape[-1]
    if named["dim"] % node.meta["val"].dim() != node.meta["val"].dim() - 1 or len(named["tensors"]) != 2 or not isinstance(size, int):
        return ()
    negated, first = named["tensors"]
    if negated.target is not _aten.neg.default or size % 2:
        return ()
    second = arguments(negated)["self"]
    if _taken(second, x) != (size // 2, size) or _taken(first, x) != (0, size // 2):
        return ()
    return node, negated, first, second


def _taken(node: fx.Node, x: fx.Node) -> tuple[int, int] | None:
    """Where a slice of the last dimension of `x` starts and ends."""
    if node.target is not _aten.slice.Tensor:
        return None
    named, shape = arguments(node), x.meta["val"].shape
    if named["self"] is not x or named["dim"] % len(shape) != len(shape) - 1 or named["step"] != 1:
        return None
    start, end, size = named["start"] or 0, named["end"], shape[-1]
    if not isinstance(size, int) or not isinstance(start, int) or not (end is None or isinstance(end, int)):
        return None
    return start % size if start < 0 else start, size if end is None or end >= size else end % size


def emit(edit: Edit, node: fx.Node, what: Recognized, x: fx.Node, s_x: float, grid: Grid, dtype: torch.dtype) -> fx.Node:
    """The operator; both scales go into the tables, which 15 bits round."""
    assert what.cosine is not None
    assert what.sine is not None
    chains, ratio = (what.cosine, what.sine), s_x / grid.scale
    largest = max(float(edit.tensor(source_of(chain)).abs().max()) for chain in chains) * ratio
    c = max(1, min(SHIFT_LIMIT_16, math.floor(math.log2(SHORT_LIMIT / largest)))) if largest else 1
    tables = [_table(edit, node, chain, ratio * 2.0**c) for chain in chains]
    return edit.call(_fxp.rotary.default, x, *tables, c, grid.qmin, grid.qmax, dtype, like=node, name=f"{node.name}_out")


def _table(edit: Edit, node: fx.Node, chain: fx.Node, factor: float) -> fx.Node:
    source = source_of(chain)
    values: Tensor = torch.round(edit.tensor(source).detach().double() * factor).clamp(-SHORT_LIMIT, SHORT_LIMIT)
    return moved(edit, chain, edit.add_tensor(f"{node.name}.{source.target}", values.to(torch.int16)))
