"""layer_norm, rms_norm over the last dimension ==> fxp.normalize, then gain and shift as fxp.affine."""

from __future__ import annotations

import math
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.dyadic import MULTIPLIER_LIMIT
from torch import Tensor, fx

from .recognized import Recognized
from .scales import Grid

_fxp = torch.ops.fxp
WIDTH_LIMIT = 4096
"""Values that one row may hold: up to here every product of the normalisation fits 32 bits."""
_AFFINE_SHIFTS = range(24, 0, -1)
_UNIT = 1 << 10
"""Normalised values are counted in 2**-10."""


def layer_norm(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.layer_norm`` over the last dimension."""
    return _normalize(named, "bias", named["eps"], centre=True)


def rms_norm(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.rms_norm`` over the last dimension; without an epsilon float32's own."""
    return _normalize(named, None, named["eps"] if named["eps"] is not None else torch.finfo(torch.float32).eps, centre=False)


def _normalize(named: dict[str, Any], bias: str | None, epsilon: float, *, centre: bool) -> Recognized | str:
    shape = named["normalized_shape"]
    if len(shape) != 1 or not isinstance(shape[0], int):
        return "it normalises over more than the last dimension, or over a symbolic one"
    if not 2 <= shape[0] <= WIDTH_LIMIT:
        return f"it normalises over {shape[0]} values; 2 to {WIDTH_LIMIT} fit its arithmetic"
    parts = named["weight"], named[bias] if bias else None
    if any(part is not None and part.op != "get_attr" for part in parts):
        return "its gain is computed, not constant"
    operand: fx.Node = named["input"]
    return Recognized("normalize", (operand,), weight=parts[0], bias=parts[1], epsilon=epsilon, centre=centre)


def epsilon_steps(epsilon: float, size: int, scale: float) -> int:
    """The epsilon of a variance as it is added to ``size**2`` times that of integers of `scale`, at least 1."""
    return max(1, round(epsilon * size**2 / scale**2))


def affine_steps(gain: Tensor, shift: Tensor, size: int, scale: float) -> tuple[Tensor, Tensor, int]:
    """g, b (int32) and c with ``(u * g + b) / 2**c`` the result in steps of `scale`; c as large as 32 bits allow.

    |u| is at most sqrt(size) * 2**10 (Samuelson's inequality).
    """
    gains, shifts = gain.detach().double() / scale / _UNIT, shift.detach().double() / scale
    most = math.isqrt(size) * _UNIT + 2 * _UNIT
    for c in _AFFINE_SHIFTS:
        g, b = torch.round(gains * 2.0**c), torch.round(shifts * 2.0**c)
        if float(g.abs().max()) < MULTIPLIER_LIMIT and float((g.abs() * most + b.abs()).max()) + 2.0**c < 2.0**31:
            return g.to(torch.int32), b.to(torch.int32), c
    # not even the least shift fits: the grid is so fine that nearly everything saturates, with these limits as without
    steepest = min(MULTIPLIER_LIMIT - 1, ((1 << 30) - 1) // most)
    room = (1 << 31) - 1 - (1 << c) - steepest * most
    return g.clamp(-steepest, steepest).to(torch.int32), b.clamp(-room, room).to(torch.int32), c


def emit(edit: Edit, node: fx.Node, what: Recognized, x: fx.Node, s_x: float) -> fx.Node:
    """The normalised value, without gain and shift."""
    size = int(node.meta["val"].shape[-1])
    return edit.call(_fxp.normalize.default, x, epsilon_steps(what.epsilon, size, s_x), what.centre, like=node, name=f"{node.name}_unit")


def emit_affine(edit: Edit, node: fx.Node, what: Recognized, unit: fx.Node, grid: Grid, dtype: torch.dtype) -> fx.Node:
    """Gain and shift, on a grid."""
    size = int(node.meta["val"].shape[-1])
    gain = torch.ones(1) if what.weight is None else edit.tensor(what.weight)
    shift = torch.zeros(1) if what.bias is None else edit.tensor(what.bias)
    g, b, c = affine_steps(gain, shift, size, grid.scale)
    parts = (edit.add_tensor(f"{node.name}.gain", g), edit.add_tensor(f"{node.name}.shift", b), c, grid.qmin, grid.qmax, -1, dtype)
    return edit.call(_fxp.affine.default, unit, *parts, like=node, name=f"{node.name}_out")
