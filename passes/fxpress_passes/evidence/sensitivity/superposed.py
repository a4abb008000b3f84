"""Choices ==> inner products of what each moves the output by: moves add where losses do not, so that these tell what pairs cost.

Near an output y a distance is half the squared length of the move in coordinates of its own, |A(y) dy|^2 / 2 (of a divergence
A A^T is Fisher's information), and to first order the move of several choices is the sum of theirs. One run a choice so gives the
interactions of all pairs, which `interactions` measures one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..losses import COORDINATES, DISTANCES
from .asked import Asked
from .recorded import Recorded

_MOST = 1 << 25
"""Numbers that are kept of the moves of one batch; of more rows than have room some are drawn."""


def superposed(asked: Asked) -> Tensor:
    """Inner products of moves, float64 [1 + n, 1 + n] for n choices: the distance of several from the original is the half of the sum
    of their rows and columns and those of place 0, which is the move that `base` makes; the mean of rows of the outputs.
    """
    name = asked.loss if asked.loss in DISTANCES else "divergence"
    coordinates, count = COORDINATES[name], len(asked.perturbations)
    generator = torch.Generator().manual_seed(asked.context.seed)
    products = torch.zeros(1 + count, 1 + count, dtype=torch.float64)
    for position, batch in enumerate(asked.batches):
        original = _rows(Recorded(asked.program, batch, {}).original)
        recorded = Recorded(asked.program, batch, asked.base)
        most = max(1, _MOST // ((1 + count) * original.shape[1]))
        drawn = torch.randperm(len(original), generator=generator)[:most]
        kept, start = original[drawn], _rows(recorded.original)[drawn]
        moves = torch.empty(1 + count, kept.numel())
        moves[0] = coordinates(kept, start - kept).flatten()
        for place, one in enumerate(asked.perturbations):
            moved = _rows(recorded.changed(one.weights(), one.inputs))[drawn]
            moves[1 + place] = coordinates(kept, moved - start).flatten()
            asked.tell(position * count + place + 1, len(asked.batches) * count)
        products += (moves @ moves.T).double() / (len(kept) * len(asked.batches))
    return products


def _rows(scores: Tensor) -> Tensor:
    return scores.reshape(-1, scores.shape[-1])
