"""Weights and per-channel parameters ==> the arrays that kernels read in order, 16 output channels at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from fxpress_ir.dyadic import saturation_bounds
from numpy.typing import NDArray

LANES = 16
"""Output channels that one vector holds: 16 int32 in 512 bits."""
WORD = 4
"""Input channels that one VNNI dot product sums: four bytes of a 32-bit lane."""


def rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def weights_by_lane(weight: NDArray[Any], channels: int) -> NDArray[np.int8]:
    """[oc, ic, kh, kw] ==> [oc / 16, kh * kw * ic, 16], zeros for the channels up to `channels`."""
    count, inputs, height, width = weight.shape
    filled = np.zeros((channels, inputs, height, width), np.int8)
    filled[:count] = weight
    blocks = filled.reshape(-1, LANES, inputs, height, width).transpose(0, 3, 4, 2, 1)
    return np.ascontiguousarray(blocks.reshape(-1, height * width * inputs, LANES))


def weights_by_word(weight: NDArray[Any], channels: int, stored_inputs: int) -> NDArray[np.int8]:
    """[oc, ic, kh, kw] ==> [oc / 16, kh * kw * ic' / 4, 64]: 16 lanes of 4 input channels, ic filled up to ic' with zeros."""
    filled = np.zeros((weight.shape[0], stored_inputs, *weight.shape[2:]), np.int8)
    filled[:, : weight.shape[1]] = weight
    by_lane = weights_by_lane(filled, channels)
    words = by_lane.reshape(by_lane.shape[0], -1, WORD, LANES).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(words.reshape(by_lane.shape[0], -1, LANES * WORD))


def spread(values: NDArray[Any], channels: int, fill: int = 0) -> NDArray[np.int64]:
    """One value a channel up to the stored channels; a single value goes to all of them."""
    filled = np.full(channels, fill, np.int64)
    filled[: channels if values.size == 1 else values.size] = values
    return filled


def folded_bias(weight: NDArray[Any], bias: NDArray[np.int64] | None, zero: int) -> NDArray[np.int64]:
    """``bias - zero * sum w``: the bias for an input stored with zero point `zero`, shape [oc]."""
    sums: NDArray[np.int64] = weight.reshape(weight.shape[0], -1).astype(np.int64).sum(1)
    return (0 if bias is None else bias) - zero * sums


def requantization(b: NDArray[np.int64], c: int, qmin: int, qmax: int, channels: int) -> NDArray[np.int64]:
    """The rows pre-clip low, pre-clip high and multiplier, shape [3, channels]."""
    low, high = saturation_bounds(b, c, qmin, qmax)
    return np.stack([spread(low, channels), spread(high, channels), spread(b, channels, fill=1)])
