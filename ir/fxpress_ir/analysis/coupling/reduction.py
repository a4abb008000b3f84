"""Sums, means, extremes, softmax and pooling ==> what is reduced away is a loss unless zeros do not count."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from .call import Call, Result, passed, sizes, unlabelled
from .ties import ONE, Axis, Value

_SUMS = frozenset({"sum", "linalg_vector_norm", "norm"})
"""Reductions to which zeros add nothing."""
_KEEP_ZEROS = _SUMS | {"mean", "amax", "amin", "max", "min", "prod"}


def _dimensions(given: Any, rank: int) -> Collection[int]:
    if given is None or given == []:
        return range(rank)
    return {dimension % rank for dimension in ([given] if isinstance(given, int) else given)}


def reduction(call: Call) -> Result:
    """Over `dim`, all dimensions where there is none; max and min give two values."""
    x = call.value(call.first())
    reduced, keeps = _dimensions(call.named.get("dim"), len(x)), bool(call.named.get("keepdim"))
    for position in reduced:
        axis = x[position]
        if isinstance(axis.labels, str):
            continue
        if call.name in _SUMS and axis.zero:
            call.ties.consumers.append((axis.labels, call.node))
        else:
            call.lose(axis.labels, "its entries are counted or compared")
    rest = passed(x, call.name in _KEEP_ZEROS)
    value = tuple(ONE if position in reduced else axis for position, axis in enumerate(rest) if keeps or position not in reduced)
    return [value] * len(call.node.meta["val"]) if isinstance(call.node.meta["val"], (tuple, list)) else value


def along(call: Call) -> Value:
    """softmax and cumulative sums: the shape stays."""
    x, dimension = call.value(call.first()), call["dim"]
    call.lose(x[dimension].labels, "its entries are counted or compared")
    return passed(x, call.name == "cumsum")


def pool(call: Call) -> Result:
    """Windows over the last dimensions, as many as the operator's name says; channels pass, and zeros."""
    x, spatial = call.value(call.first()), int(call.name.split("_with_")[0][-2])
    call.pin(x[-spatial:], "a window slides over it")
    value = (*x[:-spatial], *(unlabelled(size, f"windows are counted by {call.where}") for size in call.shape[-spatial:]))
    return [value] * len(call.node.meta["val"]) if isinstance(call.node.meta["val"], (tuple, list)) else value


def resample(call: Call) -> Value:
    """Interpolation over all dimensions but the first two."""
    x = call.value(call.first())
    call.pin(x[2:], "it is interpolated")
    return (*x[:2], *(unlabelled(size, f"it is interpolated by {call.where}") for size in call.shape[2:]))


def grid_sample(call: Call) -> Value:
    """grid_sampler: x [batch, channels, ...] at places of a grid [batch, ..., 2]."""
    x, grid = call.value(call["input"]), call.value(call["grid"])
    call.pin((*x[2:], *grid), "it is sampled")
    return (*x[:2], *(unlabelled(size, f"it is sampled by {call.where}") for size in call.shape[2:]))


def pixel_shuffle(call: Call) -> Value:
    """Channels become pixels: a block of channels leaves as a whole."""
    x, factor = call.value(call.first()), call["upscale_factor"] ** 2
    channel = x[-3]
    labels = channel.labels
    if not isinstance(labels, str):
        labels = call.ties.tie_blocks(labels, int(sizes(call.first())[-3]) // factor)
    return (*x[:-3], Axis(labels, channel.zero), *(unlabelled(size, f"pixels are shuffled by {call.where}") for size in call.shape[-2:]))


def pixel_unshuffle(call: Call) -> Value:
    """Pixels become channels: those of one channel follow one another."""
    x, factor = call.value(call.first()), call["downscale_factor"] ** 2
    channel = x[-3]
    labels = unlabelled(call.shape[-3], channel.labels).labels if isinstance(channel.labels, str) else np.repeat(channel.labels, factor)
    call.pin(x[-2:], "pixels are shuffled")
    return (*x[:-3], Axis(labels, channel.zero), *(unlabelled(size, f"pixels are shuffled by {call.where}") for size in call.shape[-2:]))


_POOLS = [f"{kind}_pool{rank}d" for rank in (1, 2, 3) for kind in ("max", "avg", "adaptive_avg", "adaptive_max")]
_UPSAMPLES = [f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d", "bicubic2d", "linear1d", "trilinear3d")]
_REDUCTIONS = ("sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "linalg_vector_norm", "norm", "logsumexp", "any", "all")
RULES = {
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "cumsum"), along),
    **dict.fromkeys((*_POOLS, "max_pool2d_with_indices", "max_pool1d_with_indices", "max_pool3d_with_indices"), pool),
    **dict.fromkeys((*_UPSAMPLES, "_upsample_nearest_exact2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"), resample),
    "grid_sampler": grid_sample,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
}
