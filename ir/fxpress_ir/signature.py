"""What a program takes: names, dtypes and shapes, some of whose dimensions stay symbolic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .errors import InputError


@dataclass(frozen=True)
class Dimension:
    """A dimension that stays symbolic: its name and its inclusive range (maximum None: unbounded)."""

    name: str
    minimum: int = 1
    maximum: int | None = None

    def __str__(self) -> str:
        return self.name

    def admits(self, size: int) -> bool:
        return self.minimum <= size and (self.maximum is None or size <= self.maximum)


def steps_text(scale: float | None) -> str:
    """What follows a type whose integers stand for real numbers."""
    return "" if scale is None else f" in steps of {scale!r}"


@dataclass(frozen=True)
class InputSpec:
    """Name, shape and dtype of one input.

    Attributes:
        scale: where integers stand for real numbers, the real number that one step is: real = integer * scale.
    """

    name: str
    shape: tuple[int | Dimension, ...]
    dtype: torch.dtype
    scale: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]{steps_text(self.scale)}"

    def check(self, shape: Sequence[int], dtype: torch.dtype, sizes: dict[str, int]) -> None:
        """Hold a value of `shape` and `dtype` to this spec; `sizes` collects what each named dimension is bound to.

        Raises:
            InputError: dtype, rank, a static size or a named dimension differs.
        """
        where, expected = f"input {self.name!r}", f"pass a tensor {self}"
        if dtype != self.dtype:
            raise InputError(f"dtype is {dtype}, expected {self.dtype}", where=where, way_on=expected)
        if len(shape) != len(self.shape):
            raise InputError(f"shape {list(shape)} has {len(shape)} dimensions", where=where, way_on=expected)
        for position, (size, wanted) in enumerate(zip(shape, self.shape, strict=True)):
            if isinstance(wanted, int):
                if size != wanted:
                    raise InputError(f"dimension {position} is {size}, expected {wanted}", where=where, way_on=expected)
            elif sizes.setdefault(wanted.name, size) != size:
                message = f"dimension {wanted.name!r} is {size} here and {sizes[wanted.name]} before"
                raise InputError(message, where=where, way_on=expected)
            elif not wanted.admits(size):
                bounds = f"[{wanted.minimum}, {'unbounded' if wanted.maximum is None else wanted.maximum}]"
                raise InputError(f"dimension {wanted.name!r} is {size}, outside {bounds}", where=where, way_on=expected)
