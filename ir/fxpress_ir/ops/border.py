"""q = clamp(rint(x / s)), x = q * s: the only places where floats meet integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from .library import LIBRARY, Fact, Interval, Intervals, Proof, Tensors, arguments, check_channels, define


def _steps(x: Tensor, scale: Tensor | float) -> Tensor:
    """x / scale in IEEE float32, rounded half to even; a product with 1 / scale would give other bits."""
    divisor = torch.as_tensor(scale, dtype=torch.float32, device=x.device)
    return torch.round(x.float() / divisor)


def _quantize(x: Tensor, scale: float, qmin: int, qmax: int, dtype: torch.dtype) -> Tensor:
    return _steps(x, scale).clamp_(qmin, qmax).to(dtype)


def _dequantize(q: Tensor, scale: float) -> Tensor:
    return q.float() * torch.tensor(scale, dtype=torch.float32, device=q.device)


def _fake_quantize(x: Tensor, scale: float, qmin: int, qmax: int) -> Tensor:
    return _steps(x, scale).clamp_(qmin, qmax) * torch.tensor(scale, dtype=torch.float32, device=x.device)


def _along(scale: Tensor, x: Tensor, axis: int) -> Tensor:
    return scale.float().reshape([-1 if d == axis % x.dim() else 1 for d in range(x.dim())])


def _fake_quantize_channels(x: Tensor, scale: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    steps = _along(scale, x, axis)
    return _steps(x, steps).clamp_(qmin, qmax) * steps


def _fake_fake_quantize_channels(x: Tensor, scale: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    check_channels("scale", scale, x.shape[axis])
    return torch.empty_like(x, dtype=torch.float32)


def quantize_channels(x: Tensor, scale: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    """The integers (float32 valued) behind ``fxp::fake_quantize_channels``, for `scale` of shape [x.shape[axis]]."""
    return _steps(x, _along(scale, x, axis)).clamp_(qmin, qmax)


def _prove_quantize(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    least, most = torch.iinfo(named["dtype"]).min, torch.iinfo(named["dtype"]).max
    fact = Fact(node.name, "quantised value", named["qmin"], named["qmax"], least, most)
    return Proof(Interval.of(named["qmin"], named["qmax"]), (fact,))


quantize = define(
    "quantize(Tensor x, float scale, int qmin, int qmax, ScalarType dtype) -> Tensor",
    _quantize,
    lambda x, scale, qmin, qmax, dtype: torch.empty_like(x, dtype=dtype),
    _prove_quantize,
)
dequantize = define(
    "dequantize(Tensor q, float scale) -> Tensor",
    _dequantize,
    lambda q, scale: torch.empty_like(q, dtype=torch.float32),
    lambda node, intervals, tensors: Proof(intervals[arguments(node)["q"]]),
)
fake_quantize = define(
    "fake_quantize(Tensor x, float scale, int qmin, int qmax) -> Tensor",
    _fake_quantize,
    lambda x, scale, qmin, qmax: torch.empty_like(x, dtype=torch.float32),
)
fake_quantize_channels = define(
    "fake_quantize_channels(Tensor x, Tensor scale, int axis, int qmin, int qmax) -> Tensor",
    _fake_quantize_channels,
    _fake_fake_quantize_channels,
)


def _remember_inside(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale = inputs[0], inputs[1]
    qmin, qmax = inputs[-2:]
    steps = _steps(x, scale if isinstance(scale, float) else _along(scale, x, inputs[2]))
    ctx.save_for_backward((steps >= qmin) & (steps <= qmax))
    ctx.arity = len(inputs)


def _straight_through(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Straight-through estimator (Bengio et al. 2013): identity inside the range, zero where the value saturates."""
    (inside,) = ctx.saved_tensors
    return (gradient * inside, *[None] * (ctx.arity - 1))


for _name in ("fake_quantize", "fake_quantize_channels"):
    torch.library.register_autograd(f"fxp::{_name}", _straight_through, setup_context=_remember_inside, lib=LIBRARY)
