"""[outputs, inputs, kh, kw] ==> [r, inputs, 1, 1], then [q, r, kh, kw], then [outputs, q, 1, 1]."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Size, Tensor

from ..lens import Lens, Truncation
from .piece import Piece, Rung
from .ranks import check_ranks


class Tucker:
    """Tucker-2 decomposition (Kim et al. 2016), by sequentially truncated singular values: inputs' channels first, then outputs'.

    Inputs weigh by the moment of their channels, averaged over the window's places. What a rung loses is the sum of what each of
    both sides alone would, an upper bound; the path between rungs lowers the rank that loses less for a parameter.
    """

    name: ClassVar[str] = "tucker"

    def __init__(self, weight: Tensor, lens: Lens) -> None:
        self._shape = weight.shape
        _, inputs, high, wide = weight.shape
        self._rows = lens.rows
        moment = None
        if lens.moment is not None:
            apart = lens.moment.reshape(inputs, high * wide, inputs, high * wide)
            moment = torch.diagonal(apart, dim1=1, dim2=3).mean(-1)
        by_input = weight.permute(0, 2, 3, 1).reshape(-1, inputs)
        rows = None if lens.rows is None else lens.rows.repeat_interleave(high * wide)
        self._inputs = Truncation.of(by_input, Lens(rows, moment))
        self._outputs = self._by_output(len(self._inputs.energies))
        self.rungs = self._path()

    @staticmethod
    def refused(shape: Size) -> str | None:
        return "its kernel is a single point" if len(shape) != 4 or shape[2] * shape[3] == 1 else None

    def _by_output(self, rank: int) -> Truncation:
        """The outputs' side of what `rank` input directions leave; an orthonormal direction's energy is what it weighs."""
        outputs, _, high, wide = self._shape
        left, _ = self._inputs.at(rank)
        matrix = left.reshape(outputs, high * wide * rank)
        weights = self._inputs.energies[:rank].repeat(high * wide)
        return Truncation.of(matrix, Lens(self._rows, weights))

    def _cost(self, ranks: tuple[int, int]) -> int:
        outputs, inputs, *window = self._shape
        return ranks[0] * inputs + ranks[0] * ranks[1] * window[0] * window[1] + ranks[1] * outputs

    def _path(self) -> tuple[Rung, ...]:
        lost = self._inputs.lost().tolist(), self._outputs.lost().tolist()
        now = (len(self._inputs.energies), len(self._outputs.energies))
        found = []
        while True:
            found.append(Rung(now, self._cost(now), min(1.0, lost[0][now[0]] + lost[1][now[1]])))
            ways = [step for step in ((now[0] - 1, now[1]), (now[0], now[1] - 1)) if min(step) > 0]
            if not ways:
                return tuple(found)
            here = lost[0][now[0]] + lost[1][now[1]]
            prices = [(lost[0][r] + lost[1][q] - here) / (self._cost(now) - self._cost((r, q))) for r, q in ways]
            now = ways[prices.index(min(prices))]

    def pieces(self, ranks: tuple[int, ...]) -> tuple[Piece, ...]:
        check_ranks(ranks, (len(self._inputs.energies), len(self._outputs.energies)))
        _, _, high, wide = self._shape
        _, first = self._inputs.at(ranks[0])
        last, core = self._by_output(ranks[0]).at(ranks[1])
        return (
            Piece(first[:, :, None, None]),
            Piece(core.reshape(-1, high, wide, ranks[0]).permute(0, 3, 1, 2).contiguous(), (True, True)),
            Piece(last[:, :, None, None]),
        )
