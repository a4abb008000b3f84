"""A layer ==> products of matrices, one a group: rows of inputs times the weight's rows, of linear layers and convolutions alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.nn import functional

_aten = torch.ops.aten
_AT_ONCE = 1 << 22
"""Elements of windows that are laid out at once: bounds the memory beside the moments."""


class Matrix:
    """Shapes of one layer: G groups of R outputs, each of K inputs.

    A transposed convolution counts as the convolution with the flipped kernel over the input with zeros between its pixels.
    Its scales are shared by its groups; all other layers have one scale an output.
    """

    def __init__(self, node: fx.Node, weight: Tensor) -> None:
        named = arguments(node)
        self._named, self._shape = named, weight.shape
        self.is_linear = node.target is _aten.linear.default
        self.is_transposed = node.target is _aten.conv_transpose2d.input
        self.groups: int = 1 if self.is_linear else named["groups"]
        self.rows: int = weight.shape[1] if self.is_transposed else weight.shape[0] // self.groups
        self.columns: int = weight.numel() // (self.groups * self.rows)
        self.window: int = weight.shape[2:].numel()

    def of(self, weight: Tensor) -> Tensor:
        """A weight as [G, R, K]."""
        if self.is_transposed:
            inputs, outputs, *size = weight.shape
            weight = weight.reshape(self.groups, inputs // self.groups, outputs, *size).transpose(1, 2).flip(-1, -2)
        return weight.reshape(self.groups, self.rows, self.columns)

    def weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `of`."""
        if self.is_transposed:
            inputs, outputs, *size = self._shape
            matrix = matrix.reshape(self.groups, outputs, inputs // self.groups, *size).flip(-1, -2).transpose(1, 2)
        return matrix.reshape(self._shape).contiguous()

    def expand(self, scales: Tensor) -> Tensor:
        """One number a scale ==> [G, R, 1]."""
        return scales.reshape(1 if self.is_transposed else self.groups, self.rows, 1).expand(self.groups, self.rows, 1)

    def collect(self, rows: Tensor) -> Tensor:
        """[G, R] ==> sums, one for each scale."""
        return rows.sum(0) if self.is_transposed else rows.reshape(-1)

    def parts(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """An input and a result of the layer ==> [G, n, K] and [G, n, R], in parts of bounded size."""
        if self.is_linear:
            yield x.reshape(1, -1, self.columns), y.reshape(1, -1, self.rows)
            return
        window, dilation, stride = tuple(self._shape[2:]), pair(self._named["dilation"]), pair(self._named["stride"])
        step = (1, 1) if self.is_transposed else stride
        images = max(1, _AT_ONCE // (self.groups * self.columns * y.shape[2] * y.shape[3]))
        for some, results in zip(torch.split(x, images), torch.split(y, images), strict=True):
            wide = functional.pad(spread(some, stride) if self.is_transposed else some, self._padding(window, dilation))
            found = functional.unfold(wide, window, dilation, 0, step).reshape(len(some), self.groups, self.columns, -1)
            yield _by_group(found), _by_group(results.reshape(len(some), self.groups, self.rows, -1))

    def _padding(self, window: tuple[int, ...], dilation: tuple[int, int]) -> list[int]:
        """Left, right, top and bottom; a crop where negative."""
        given: Any = self._named["padding"]
        spans = [d * (size - 1) for size, d in zip(window, dilation, strict=True)]
        if given == "same":
            return [spans[1] // 2, spans[1] - spans[1] // 2, spans[0] // 2, spans[0] - spans[0] // 2]
        high, wide = (0, 0) if given == "valid" else pair(given)
        if not self.is_transposed:
            return [wide, wide, high, high]
        more = pair(self._named["output_padding"])
        return [spans[1] - wide, spans[1] - wide + more[1], spans[0] - high, spans[0] - high + more[0]]


def pair(value: Any) -> tuple[int, int]:
    """An operator's int or list of one or two ints as two."""
    given = [value] if isinstance(value, int) else list(value)
    return given[0], given[-1]


def spread(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """[..., H, W] with zeros between pixels: [..., (H - 1) * stride + 1, (W - 1) * stride + 1]."""
    high, wide = ((size - 1) * step + 1 for size, step in zip(x.shape[-2:], stride, strict=True))
    wider = x.new_zeros(*x.shape[:-2], high, wide)
    wider[..., :: stride[0], :: stride[1]] = x
    return wider


def _by_group(values: Tensor) -> Tensor:
    """[images, G, features, places] ==> [G, images * places, features]."""
    return values.permute(1, 0, 3, 2).flatten(1, 2)
