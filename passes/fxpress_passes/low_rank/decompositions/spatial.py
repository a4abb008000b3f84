"""[outputs, inputs, kh, kw] ==> [r, inputs, kh, 1], then [outputs, r, 1, kw]."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Size, Tensor

from ..lens import Lens, Truncation
from .piece import Piece
from .ranks import check_ranks, single_rungs


class Spatial:
    """Spatial singular value decomposition (Jaderberg et al. 2014; AIMET's).

    Inputs weigh by the moment of their columns of `kh`, averaged over the window's `kw`: correlations between different columns of a
    window are left out, because the first layer sees one column at a time.
    """

    name: ClassVar[str] = "spatial"

    def __init__(self, weight: Tensor, lens: Lens) -> None:
        outputs, inputs, high, wide = self._shape = weight.shape
        matrix = weight.permute(0, 3, 1, 2).reshape(outputs * wide, inputs * high)
        rows = None if lens.rows is None else lens.rows.repeat_interleave(wide)
        moment = None
        if lens.moment is not None:
            apart = lens.moment.reshape(inputs * high, wide, inputs * high, wide)
            moment = torch.diagonal(apart, dim1=1, dim2=3).mean(-1)
        self._found = Truncation.of(matrix, Lens(rows, moment))
        self.rungs = single_rungs(self._found, inputs * high + outputs * wide)

    @staticmethod
    def refused(shape: Size) -> str | None:
        return "its kernel is not larger than 1 both ways" if len(shape) != 4 or min(shape[2:]) == 1 else None

    def pieces(self, ranks: tuple[int, ...]) -> tuple[Piece, ...]:
        check_ranks(ranks, (len(self._found.energies),))
        outputs, inputs, high, wide = self._shape
        left, right = self._found.at(ranks[0])
        return (
            Piece(right.reshape(-1, inputs, high, 1), (True, False)),
            Piece(left.reshape(outputs, wide, -1).permute(0, 2, 1)[:, :, None, :].contiguous(), (False, True)),
        )
