"""Inputs of linear layers and their weights ==> how far quantising both moves the results."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def powers(rows: Tensor, weights: Sequence[Tensor]) -> list[float]:
    """The mean square of each layer's results."""
    return [max(float((rows @ weight.T).square().mean()), 1e-30) for weight in weights]


def error(rows: Tensor, weights: Sequence[Tensor], scales: Sequence[float], activation_bits: int, weight_bits: int) -> float:
    """The mean squared error of each layer's results over its entry of `scales`, summed.

    Args:
        rows: inputs, float32 [n, channels].
        weights: float32 [results, channels] each; symmetric, a scale for each row.
    """
    rough, total = quantized(rows, activation_bits), 0.0
    for weight, scale in zip(weights, scales, strict=True):
        moved = rough @ (weight + rounding(weight, weight_bits)).T - rows @ weight.T
        total += float(moved.square().mean()) / scale
    return total


def rounding(weight: Tensor, bits: int) -> Tensor:
    """What quantising a weight, symmetric, a scale for each row, adds to it."""
    unit = (weight.abs().amax(1, keepdim=True) / ((1 << bits - 1) - 1)).clamp_min(1e-30)
    return (weight / unit).round() * unit - weight


def quantized(rows: Tensor, bits: int) -> Tensor:
    """`rows` on a grid with zero point 0 that covers them, without a sign where nothing is negative."""
    unit = step(rows, bits)
    return (rows / unit).round() * unit


def step(rows: Tensor, bits: int) -> float:
    """The step of that grid."""
    signed = bool((rows < 0).any())
    return max(float(rows.abs().max()) / ((1 << bits - signed) - 1), 1e-30)
