"""ATen's elementwise functions in float64 NumPy, written down a second time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_aten = torch.ops.aten
Reals = NDArray[np.float64]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Reals) -> Reals:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Reals, beta: float = 1, threshold: float = 20) -> Reals:
    return np.where(beta * x > threshold, x, np.log1p(np.exp(np.minimum(beta * x, threshold))) / beta)


def _gelu(x: Reals, *, approximate: str = "none") -> Reals:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _clamp(x: Reals, low: float | None = None, high: float | None = None) -> Reals:
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _elu(x: Reals, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Reals:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) * input_scale))


def _prelu(x: Reals, slope: Reals) -> Reals:
    return np.where(x > 0, x, x * slope.reshape(-1, *[1] * (x.ndim - 2)))


def _batch_norm(x: Reals, gain: Any, shift: Any, mean: Reals, variance: Reals, *rest: Any) -> Reals:
    def spread(values: Any, default: float) -> Reals:
        return np.asarray(default if values is None else values).reshape(-1, *[1] * (x.ndim - 2))

    training, _, eps, _ = rest
    assert not training
    return (x - spread(mean, 0)) / np.sqrt(spread(variance, 1) + eps) * spread(gain, 1) + spread(shift, 0)


FUNCTIONS: dict[Any, Callable[..., Reals]] = {
    _aten.relu.default: lambda x: np.maximum(x, 0),
    _aten.relu6.default: lambda x: np.clip(x, 0, 6),
    _aten.hardtanh.default: lambda x, low=-1, high=1: np.clip(x, low, high),
    _aten.clamp.default: _clamp,
    _aten.clamp_min.default: _clamp,
    _aten.sigmoid.default: _sigmoid,
    _aten.tanh.default: np.tanh,
    _aten.gelu.default: _gelu,
    _aten.silu.default: lambda x: x * _sigmoid(x),
    _aten.mish.default: lambda x: x * np.tanh(_softplus(x)),
    _aten.softplus.default: _softplus,
    _aten.hardswish.default: lambda x: x * np.clip(x + 3, 0, 6) / 6,
    _aten.hardsigmoid.default: lambda x: np.clip(x + 3, 0, 6) / 6,
    _aten.leaky_relu.default: lambda x, slope=0.01: np.where(x > 0, x, x * slope),
    _aten.elu.default: _elu,
    _aten.prelu.default: _prelu,
    _aten.selu.default: lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805),
    _aten.celu.default: lambda x, alpha=1: _elu(x, alpha, 1, 1 / alpha),
    _aten.log_sigmoid.default: lambda x: -_softplus(-x),
    _aten.hardshrink.default: lambda x, edge=0.5: np.where(abs(x) > edge, x, 0),
    _aten.softshrink.default: lambda x, edge=0.5: np.sign(x) * np.maximum(abs(x) - edge, 0),
    _aten.threshold.default: lambda x, edge, value: np.where(x > edge, x, value),
    _aten.sin.default: np.sin,
    _aten.cos.default: np.cos,
    _aten.atan.default: np.arctan,
    _aten.sign.default: np.sign,
    _aten.expm1.default: np.expm1,
    _aten.batch_norm.default: _batch_norm,
    _aten.erf.default: _erf,
    _aten.exp.default: np.exp,
    _aten.abs.default: np.abs,
    _aten.neg.default: np.negative,
    _aten.square.default: np.square,
    _aten.sqrt.default: np.sqrt,
    _aten.pow.Tensor_Scalar: np.power,
    _aten.add.Tensor: lambda x, y, alpha=1: x + alpha * y,
    _aten.sub.Tensor: lambda x, y, alpha=1: x - alpha * y,
    _aten.rsub.Scalar: lambda x, y, alpha=1: y - alpha * x,
    _aten.mul.Tensor: np.multiply,
    _aten.div.Tensor: np.divide,
    _aten.maximum.default: np.maximum,
    _aten.minimum.default: np.minimum,
}
