"""acc = sum x * w + bias in int32: convolution and linear on 8-bit and 16-bit tensors with zero point 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, constant, define, windows


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


def _check_operands(given: int, taken: int, weight: Tensor, bias: Tensor | None) -> None:
    check(given == taken, lambda: f"{given} input channels, the weight takes {taken}")
    fits = bias is None or (bias.dim() == 1 and bias.shape[0] == weight.shape[0])
    check(fits, lambda: f"the bias is not of shape [{weight.shape[0]}]")


def _fake_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    check(x.dim() == weight.dim() == 4, lambda: f"ranks {x.dim()} and {weight.dim()}, expected 4 and 4")
    check(weight.shape[0] % groups == 0, lambda: f"{weight.shape[0]} outputs do not divide into {groups} groups")
    _check_operands(x.shape[1], weight.shape[1] * groups, weight, bias)
    spatial = [windows(x.shape[2 + d], weight.shape[2 + d], stride[d], padding[d] + padding[2 + d], dilation[d]) for d in (0, 1)]
    return x.new_empty([x.shape[0], weight.shape[0], *spatial], dtype=torch.int32)


def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    check(weight.dim() == 2, lambda: f"the weight has {weight.dim()} dimensions, expected 2")
    _check_operands(x.shape[-1], weight.shape[1], weight, bias)
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
    axis = 1 if node.target is torch.ops.fxp.conv2d.default else -1
    interval = Interval(positive * low + negative * high + bias, positive * high + negative * low + bias, axis)
    worst = np.abs(weight).sum(1) * max(-low, high) + np.abs(bias)
    return Proof(interval, (Fact.fits(node.name, "accumulator (any order)", -worst, worst, 32),))


conv2d = define(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[4] padding, int[2] dilation, int groups) -> Tensor",
    _conv2d,
    _fake_conv2d,
    _prove_accumulator,
)
linear = define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _linear, _fake_linear, _prove_accumulator)
