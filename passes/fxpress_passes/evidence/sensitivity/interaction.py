"""Pairs of choices ==> what both together cost beyond the sum of each alone (row M186)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..losses import perturbed
from .asked import Asked, Perturbation


def interactions(
    asked: Asked, alone: Mapping[str, float], pairs: Iterable[tuple[Perturbation, Perturbation]]
) -> dict[tuple[str, str], float]:
    """d(a, b) - d(a) - d(b) for each pair, by the question's distance; negative where errors cancel.

    The paper's own term is not public: this is the second difference that an additive model leaves out.

    Args:
        alone: what each costs by itself, as `measured.distance` gives it.
    """
    module, found, wanted = asked.program.module, {}, list(pairs)
    with torch.no_grad():
        originals = [perturbed(module, {}, batch) for batch in asked.batches]
        for position, (one, other) in enumerate(wanted, start=1):
            weights = {**one.weights(), **other.weights()}
            moved = [
                float(asked.distance(own, perturbed(module, weights, batch))) for own, batch in zip(originals, asked.batches, strict=True)
            ]
            found[one.name, other.name] = sum(moved) / len(moved) - alone[one.name] - alone[other.name]
            asked.tell(position, len(wanted))
    return found
