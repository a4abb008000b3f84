"""Convolution of an affine value ==> affine value: pixel by pixel, or one window of the source for each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from .affine import Affine, NotAffine, Window

_aten = torch.ops.aten


def window_of(named: dict[str, Any], kernel: tuple[int, ...]) -> Window:
    """The window of a convolution's arguments.

    Raises:
        NotAffine: its padding is not the same on both ends.
    """
    count = len(kernel)
    stride, dilation = (_each(named[key], count) for key in ("stride", "dilation"))
    padding = named["padding"]
    if padding == "same":
        total = [spread * (size - 1) for spread, size in zip(dilation, kernel, strict=True)]
        if any(size % 2 for size in total):
            raise NotAffine("it pads one end more than the other")
        padding = [size // 2 for size in total]
    return Window(kernel, stride, _each(0 if padding == "valid" else padding, count), dilation)


def _each(value: Any, count: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * count if len(sizes) == 1 else sizes


def dense_kernel(weight: Tensor, groups: int) -> Tensor:
    """[outputs, inputs / groups, *kernel] ==> [outputs, inputs, *kernel], zeros between the groups."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], inputs * groups, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        dense[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return dense


def grouped_kernel(dense: Tensor, groups: int) -> Tensor:
    """The inverse of `dense_kernel`.

    Raises:
        NotAffine: there are other numbers than zeros between the groups.
    """
    outputs, inputs = dense.shape[0] // groups, dense.shape[1] // groups
    parts = [dense[group * outputs : (group + 1) * outputs, group * inputs : (group + 1) * inputs] for group in range(groups)]
    weight = torch.cat(parts)
    if not torch.equal(dense_kernel(weight, groups), dense):
        raise NotAffine(f"it mixes the {groups} groups of the convolution")
    return weight


def _convolved(node: fx.Node, named: dict[str, Any]) -> Affine:
    value: Affine = named["input"]
    weight, bias = named["weight"], named["bias"]
    dims = value.shift.dim()
    if dims != weight.dim() or value.features != (1,) or value.rows != (0, *range(2, dims)):
        raise NotAffine("it convolves along other dimensions than rows")
    kernel = dense_kernel(weight, named["groups"])
    window = window_of(named, tuple(weight.shape[2:]))
    shift = value.shift.reshape(-1)
    moved = torch.einsum("oi...,i->o", kernel, shift)
    if window == Window.point(dims - 2):
        flat = kernel.reshape(kernel.shape[:2])
        matrix = (flat * value.linear.reshape(-1)).T if value.diagonal else _by_input(value) @ flat.T
        return value.placed(matrix, moved if bias is None else moved + bias, value.window)
    if value.window is not None:
        raise NotAffine("one window follows another")
    if any(window.padding) and bool(shift.any()):
        raise NotAffine("it pads with zeros what was shifted before")
    if value.diagonal:
        spread = kernel * value.linear.reshape(1, -1, *[1] * (dims - 2))
    else:
        spread = torch.einsum("or...,nr->on...", kernel, _by_input(value))
    matrix = spread.reshape(kernel.shape[0], -1).T
    shape = node.meta["val"].shape
    strided = replace(value, sizes=tuple(shape[row] for row in value.rows))
    return strided.placed(matrix, moved if bias is None else moved + bias, window)


def _by_input(value: Affine) -> Tensor:
    """The linear part as [inputs, channels]."""
    return value.dense().linear.reshape(value.inputs, -1)


CONVOLUTIONS: dict[Any, Callable[[fx.Node, dict[str, Any]], Affine]] = dict.fromkeys(
    (
        *(_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default),
        *(_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding),
    ),
    _convolved,
)
