"""acc = sum x * w + bias in int32: convolution and linear on 8-bit tensors with zero point 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, constant, define


def _accumulate(operation: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """Through float64: exact in any order because the verifier bounds every partial sum below 2**31 < 2**53."""
    return operation(x.double(), weight.double(), None if bias is None else bias.double(), *rest).to(torch.int32)


def _conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    top, left, bottom, right = padding
    padded = functional.pad(x, (left, right, top, bottom))
    return _accumulate(functional.conv2d, padded, weight, bias, stride, 0, dilation, groups)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _accumulate(functional.linear, x, weight, bias)


def _fake_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    top, left, bottom, right = padding
    spatial = [
        (x.shape[2 + d] + pad - dilation[d] * (weight.shape[2 + d] - 1) - 1) // stride[d] + 1
        for d, pad in enumerate((top + bottom, left + right))
    ]
    return x.new_empty([x.shape[0], weight.shape[0], *spatial], dtype=torch.int32)


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty([*x.shape[:-1], weight.shape[0]], dtype=torch.int32)


def _prove_accumulator(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    """[sum min(w*lo, w*hi) + bias, sum max(w*lo, w*hi) + bias] per output channel.

    The fact is stronger than the interval: ``sum |w| * max|x| + |bias|`` bounds every partial sum in every order, which
    also covers runtimes that add the bias first or split the sum.
    """
    named = arguments(node)
    weight = constant(named["weight"], tensors)
    weight = weight.reshape(weight.shape[0], -1)
    bias = np.zeros(1, np.int64) if named["bias"] is None else constant(named["bias"], tensors)
    x = intervals[named["x"]].hull()
    low, high = min(int(x.low), 0), max(int(x.high), 0)  # 0 is what padding adds
    positive, negative = np.maximum(weight, 0).sum(1), np.minimum(weight, 0).sum(1)
    interval = Interval(positive * low + negative * high + bias, positive * high + negative * low + bias)
    worst = np.abs(weight).sum(1) * max(-low, high) + np.abs(bias)
    return Proof(interval, (Fact.fits(node.name, "accumulator (any order)", -worst, worst, 32),))


conv2d = define(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[4] padding, int[2] dilation, int groups) -> Tensor",
    _conv2d,
    _fake_conv2d,
    _prove_accumulator,
)
linear = define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _linear, _fake_linear, _prove_accumulator)
