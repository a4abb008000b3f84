"""scores of atoms, a share ==> the atoms that stay: so many of each group, or the best of all groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import torch
from fxpress_ir.analysis.coupling import Group
from torch import Tensor

SCOPES = ("layer", "global")


@dataclass(frozen=True, eq=False)
class Scored:
    """A group's scores.

    Attributes:
        scores: float64 [atoms].
        block: how many atoms leave or stay together in number, so that what stays is aligned.
    """

    scores: Tensor
    block: int

    @classmethod
    def of(cls, group: Group, scores: Tensor, align: int) -> Scored:
        """So many atoms a block that the entries of every dimension that they cover are a multiple of `align`."""
        covered = gcd(*(site.count for site in group.sites))
        return cls(scores, align // gcd(align, covered))

    def stay(self, wanted: float) -> int:
        """The number of atoms nearest to `wanted` that may stay: a multiple of the block, one at least; or all of them."""
        size = len(self.scores)
        if size <= self.block or wanted >= size:
            return size
        return min(max(round(wanted / self.block), 1) * self.block, size // self.block * self.block)

    def best(self, count: int) -> tuple[int, ...]:
        """The `count` highest, ascending; among equals the later ones."""
        return tuple(sorted(self.scores.argsort(stable=True)[len(self.scores) - count :].tolist()))


def chosen(found: Mapping[str, Scored], ratio: float, scope: str, comparable: bool) -> dict[str, tuple[int, ...]]:
    """For each group the atoms that stay, where a share `ratio` leaves.

    Args:
        scope: ``layer``, of each group; ``global``, the lowest of all groups' atoms.
        comparable: whether scores of different groups compare as they are; where not, each group's are divided by their mean.
    """
    if scope == "layer":
        return {name: one.best(one.stay((1 - ratio) * len(one.scores))) for name, one in found.items()}
    if not found:
        return {}
    scores = [one.scores if comparable else one.scores / one.scores.mean().clamp_min(1e-30) for one in found.values()]
    flat = torch.cat(scores)
    leave = torch.zeros(len(flat), dtype=torch.bool)
    leave[flat.argsort(stable=True)[: round(ratio * len(flat))]] = True
    parts = torch.split(leave, [len(part) for part in scores])
    return {name: one.best(one.stay(int((~part).sum()))) for (name, one), part in zip(found.items(), parts, strict=True)}
