"""Windows over integers: the maximum (monotone, same scale) and the int32 sum that an average is requantised from."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, define, windows


def _max_pool2d(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    top, left, bottom, right = padding
    # float32 holds every 16-bit integer; -inf never wins, so padding adds no value
    padded = functional.pad(x.float(), (left, right, top, bottom), value=float("-inf"))
    return functional.max_pool2d(padded, kernel, stride, 0, dilation).to(x.dtype)


def _check_windows(size: int, kernel: int, pads: int, dilation: int) -> None:
    """Every window holds at least one element: a maximum of padding alone is no number."""
    check(pads <= dilation * (kernel - 1), lambda: f"{pads} pads hide whole windows of {kernel} elements")
    check(pads == 0 or dilation == 1 or size >= dilation, lambda: f"a dilation of {dilation} steps over {size} elements")


def _fake_max_pool2d(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    for d in (0, 1):
        _check_windows(x.shape[2 + d], kernel[d], max(padding[d], padding[2 + d]), dilation[d])
    spatial = [windows(x.shape[2 + d], kernel[d], stride[d], padding[d] + padding[2 + d], dilation[d]) for d in (0, 1)]
    return x.new_empty([x.shape[0], x.shape[1], *spatial])


def _sum_pool2d(x: Tensor, kernel: list[int], stride: list[int], padding: list[int]) -> Tensor:
    top, left, bottom, right = padding
    padded = functional.pad(x.double(), (left, right, top, bottom))
    return functional.avg_pool2d(padded, kernel, stride, divisor_override=1).to(torch.int32)


def _fake_sum_pool2d(x: Tensor, kernel: list[int], stride: list[int], padding: list[int]) -> Tensor:
    spatial = [windows(x.shape[2 + d], kernel[d], stride[d], padding[d] + padding[2 + d]) for d in (0, 1)]
    return x.new_empty([x.shape[0], x.shape[1], *spatial], dtype=torch.int32)


def _prove_max_pool2d(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    return Proof(intervals[arguments(node)["x"]].hull())


def _prove_sum_pool2d(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    window = named["kernel"][0] * named["kernel"][1]
    x = intervals[named["x"]].hull()
    interval = Interval.of(min(int(x.low), 0) * window, max(int(x.high), 0) * window)
    return Proof(interval, (Fact.fits(node.name, "window sum", interval.low, interval.high, 32),))


max_pool2d = define(
    "max_pool2d(Tensor x, int[2] kernel, int[2] stride, int[4] padding, int[2] dilation) -> Tensor",
    _max_pool2d,
    _fake_max_pool2d,
    _prove_max_pool2d,
)
sum_pool2d = define(
    "sum_pool2d(Tensor x, int[2] kernel, int[2] stride, int[4] padding) -> Tensor",
    _sum_pool2d,
    _fake_sum_pool2d,
    _prove_sum_pool2d,
)
