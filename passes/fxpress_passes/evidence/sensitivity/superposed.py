"""Choices ==> inner products of what each moves the output by: moves add where losses do not, so that these tell what pairs cost.

Near an output y a distance is half the squared length of the move in coordinates of its own, |A(y) dy|^2 / 2 (of a divergence
A A^T is Fisher's information), and to first order the move of several choices is the sum of theirs. One run a choice so gives the
interactions of all pairs, which `interactions` measures one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from ..calibration import Batch
from ..losses import COORDINATES
from ..tally import Tally
from .asked import Asked
from .kept import choice_keys, means, weights_key
from .recorded import Recorded

_MOST = 1 << 25
"""Numbers that are kept of the moves of one batch; of more rows than have room some are drawn."""


def superposed(asked: Asked) -> Tensor:
    """Inner products of moves, float64 [1 + n, 1 + n] for n choices: the distance of several from the original is the half of the sum
    of their rows and columns and those of place 0, which is the move that `base` makes; the mean of rows of the outputs.

    Raises:
        CalibrationError: as `kept.means` raises it.
    """
    names = choice_keys(asked)
    keys = ["base", *(names[one.name] for one in asked.perturbations)]
    places = list(combinations_with_replacement(range(len(keys)), 2))
    pairs = {place: f"{keys[place[0]]} {keys[place[1]]}" for place in places}

    def costs(wanted: list[str], batch: Batch, found: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
        known = found.get(wanted[0])
        products, missing = _products(asked, batch, 0 if known is None else known.count), set(wanted)
        for place, key in pairs.items():
            if key in missing:
                missing.remove(key)
                yield key, Tally(1, float(products[place]))

    what = f"products of {asked.distance_name} moves around {weights_key(asked.base)}, {_MOST} numbers, seed {asked.context.seed}"
    found = means(asked, what, pairs.values(), costs)
    products = torch.empty(len(keys), len(keys), dtype=torch.float64)
    for (row, column), key in pairs.items():
        products[row, column] = products[column, row] = found[key]
    return products


def _products(asked: Asked, batch: Batch, position: int) -> Tensor:
    """Of one batch; which of its rows are drawn depends on its position."""
    coordinates, count = COORDINATES[asked.distance_name], len(asked.perturbations)
    recorded = Recorded(asked.program, batch, asked.base)
    original = _rows(Recorded(asked.program, batch, {}).original)
    most = max(1, _MOST // ((1 + count) * original.shape[1]))
    generator = torch.Generator().manual_seed(asked.context.seed)
    drawn = [torch.randperm(len(original), generator=generator) for _ in range(1 + position)][-1][:most]
    kept, start = original[drawn], _rows(recorded.original)[drawn]
    moves = torch.empty(1 + count, kept.numel())
    moves[0] = coordinates(kept, start - kept).flatten()
    for place, one in enumerate(asked.perturbations, start=1):
        moves[place] = coordinates(kept, _rows(recorded.changed(one.weights(), one.inputs))[drawn] - start).flatten()
    return (moves @ moves.T).double() / len(kept)


def _rows(scores: Tensor) -> Tensor:
    return scores.reshape(-1, scores.shape[-1])
