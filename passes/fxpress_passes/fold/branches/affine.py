"""A value as an affine function of one source's features: linear part, shift, and where the source's rows lie in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class NotAffine(Exception):  # noqa: N818 - an answer, not an error
    """A value is no affine function of the source, row by row; the message is the reason."""


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input: one number a spatial dimension, padding on both ends."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def point(cls, dimensions: int) -> Window:
        """Reads the pixel alone."""
        one = (1,) * dimensions
        return cls(one, one, (0,) * dimensions, one)


@dataclass(frozen=True)
class Affine:
    """A value of the graph, ``x -> x @ linear + shift`` for every row x of the source.

    Attributes:
        linear: float64, laid out as the value with every row dimension 1, except that the first one counts the source's
            features (with a window: features and the pixels of the kernel); where `diagonal`, it is 1 too and there is one
            factor for each feature.
        shift: float64, laid out as the value with every row dimension 1.
        rows: the value's dimensions that count the source's rows, in the source's order.
        sizes: of those dimensions, symbolic where they are.
        window: what of the source each row reads; None for the same row alone.
    """

    linear: Tensor
    shift: Tensor
    rows: tuple[int, ...]
    sizes: tuple[Any, ...]
    diagonal: bool = False
    window: Window | None = None

    @classmethod
    def identity(cls, shape: Sequence[Any], features: Sequence[int]) -> Affine:
        """The source itself, whose dimensions `features` are features and all others rows.

        Raises:
            NotAffine: a dimension of features is symbolic, or there is no row.
        """
        rows = tuple(d for d in range(len(shape)) if d not in features)
        if not rows or not all(isinstance(shape[d], int) for d in features):
            raise NotAffine("its features have no fixed size")
        layout = [shape[d] if d in features else 1 for d in range(len(shape))]
        one = torch.ones(layout, dtype=torch.float64)
        return cls(one, torch.zeros_like(one), rows, tuple(shape[d] for d in rows), diagonal=True)

    @property
    def features(self) -> tuple[int, ...]:
        """The value's dimensions that are no rows."""
        return tuple(d for d in range(self.shift.dim()) if d not in self.rows)

    @property
    def inputs(self) -> int:
        """How many numbers of the source one row is computed from."""
        return self.linear.numel() if self.diagonal else self.linear.shape[self.rows[0]]

    def dense(self) -> Affine:
        """The same with all of its linear part written out.

        Raises:
            NotAffine: a diagonal over several dimensions, as normalisations over more than one have.
        """
        if not self.diagonal:
            return self
        if len(self.features) != 1:
            raise NotAffine("it mixes the dimensions that a normalisation scales")
        shape = [1] * self.shift.dim()
        shape[self.rows[0]] = shape[self.features[0]] = self.inputs
        eye = torch.eye(self.inputs, dtype=torch.float64).reshape(shape)
        return replace(self, linear=self.linear * eye, diagonal=False)

    def placed(self, matrix: Tensor, shift: Tensor, window: Window | None) -> Affine:
        """The same rows with one dimension of features, at the same place, computed by `matrix` [inputs, outputs] and `shift`."""
        (feature,) = self.features
        shape = [1] * self.shift.dim()
        shape[feature] = matrix.shape[1]
        counted = [*shape]
        counted[self.rows[0]] = matrix.shape[0]
        ordered = matrix if self.rows[0] < feature else matrix.T
        return replace(self, linear=ordered.reshape(counted), shift=shift.reshape(shape), diagonal=False, window=window)

    def map(self, move: Callable[[Tensor], Tensor], rows: tuple[int, ...] | None = None) -> Affine:
        """A linear function of the value, written for values, applied to both parts; `rows` where they lie elsewhere then."""
        new = self.rows if rows is None else rows
        return replace(self, linear=move(self.linear), shift=move(self.shift), rows=new)

    def checked(self, inputs: int) -> Affine:
        """Itself, if nothing in it depends on the row and it still reads `inputs` numbers.

        Raises:
            NotAffine: a constant that was applied differs from row to row, or features were added to a diagonal.
        """
        counted = list(self.linear.shape)
        if self.inputs != inputs or any(self.shift.shape[d] != 1 for d in self.rows):
            raise NotAffine("a constant in it differs from row to row")
        if any(counted[d] != 1 for d in self.rows[0 if self.diagonal else 1 :]):
            raise NotAffine("a constant in it differs from row to row")
        return self

    def plus(self, other: Affine, factor: float = 1.0) -> Affine:
        """The sum of two values of the same rows, the other times `factor`.

        Raises:
            NotAffine: their rows or windows do not fit.
        """
        if self.rows != other.rows or self.shift.dim() != other.shift.dim():
            raise NotAffine("its terms have their rows in different places")
        first, second = self, other
        if not (self.diagonal and other.diagonal and self.linear.shape == other.linear.shape):
            first, second = aligned(self.dense(), other.dense())
        if first.inputs != second.inputs:
            raise NotAffine("its terms read different features")
        return replace(first, linear=first.linear + factor * second.linear, shift=first.shift + factor * second.shift)


def aligned(first: Affine, second: Affine) -> tuple[Affine, Affine]:
    """Both with the window of the larger kernel."""
    if first.window == second.window:
        return first, second
    spatial = len(first.rows) - 1
    left, right = first.window or Window.point(spatial), second.window or Window.point(spatial)
    if torch.Size(left.kernel).numel() >= torch.Size(right.kernel).numel():
        return replace(first, window=left), widened(second, left)
    return widened(first, right), replace(second, window=right)


def widened(value: Affine, wanted: Window) -> Affine:
    """The same dense value with the kernel of `wanted`, zeros around its own.

    Raises:
        NotAffine: its own window does not lie in the wanted one.
    """
    window, starts = value.window or Window.point(len(wanted.kernel)), []
    for d in range(len(window.kernel)):
        spread, padding = wanted.dilation[d], wanted.padding[d] - window.padding[d]
        fits = padding >= 0 and padding % spread == 0 and padding // spread + window.kernel[d] <= wanted.kernel[d]
        if not fits or window.stride[d] != wanted.stride[d] or (window.kernel[d] > 1 and window.dilation[d] != spread):
            raise NotAffine("a convolution in it reads a window that does not lie in the other's")
        starts.append(padding // spread)
    first = value.rows[0]
    small = value.linear.movedim(first, 0)
    outside = small.shape[1:]
    channels = small.shape[0] // torch.Size(window.kernel).numel()
    wide = small.new_zeros(channels, *wanted.kernel, *outside)
    wide[(slice(None), *(slice(start, start + size) for start, size in zip(starts, window.kernel, strict=True)))] = small.reshape(
        channels, *window.kernel, *outside
    )
    return replace(value, linear=wide.reshape(-1, *outside).movedim(0, first), window=wanted)
