"""[outputs, inputs, kh, kw] ==> [r, inputs, kh, kw], then [outputs, r, 1, 1]; [outputs, inputs] ==> [r, inputs], then [outputs, r]."""

from __future__ import annotations

from typing import ClassVar

from torch import Size, Tensor

from ..lens import Lens, Truncation
from .piece import Piece
from .ranks import check_ranks, single_rungs


class Channel:
    """Singular value decomposition of the flattened weight: of a linear layer the common one, of a convolution Zhang's (2016)."""

    name: ClassVar[str] = "channel"

    def __init__(self, weight: Tensor, lens: Lens) -> None:
        self._shape, self._found = weight.shape, Truncation.of(weight.flatten(1), lens)
        self.rungs = single_rungs(self._found, weight.shape[0] + weight.shape[1:].numel())

    @staticmethod
    def refused(shape: Size) -> str | None:
        return None

    def pieces(self, ranks: tuple[int, ...]) -> tuple[Piece, ...]:
        check_ranks(ranks, (len(self._found.energies),))
        left, right = self._found.at(ranks[0])
        window = len(self._shape) > 2
        return (
            Piece(right.reshape(-1, *self._shape[1:]), (window, window)),
            Piece(left.reshape(*left.shape, *[1] * (len(self._shape) - 2))),
        )
