"""Labels of entries, what ties them, what holds them ==> atoms: the sets of entries that must leave together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx

Ids = NDArray[np.int64]
Labels = Ids | str
"""A dimension's entries: int64 [size], a label for each, or why the dimension stays as it is.

Of a symbolic size that is a multiple of the labels' number, the labels repeat.
"""


@dataclass(frozen=True)
class Axis:
    """One dimension of a value.

    Attributes:
        labels: what its entries belong to, or why it stays.
        zero: where weights are masked, the value is exactly 0 at the entries that they carried.
    """

    labels: Labels
    zero: bool = False

    @property
    def is_one(self) -> bool:
        """One entry: what broadcasts over other dimensions, and is tied to none."""
        return isinstance(self.labels, str) and self.labels == ONE.labels


Value = tuple[Axis, ...]
"""A tensor's dimensions."""

ONE = Axis("it has one entry")


class Ties:
    """Collects what rules find; `atoms` solves it."""

    def __init__(self) -> None:
        self._count = 0
        self._edges: list[tuple[Ids, Ids]] = []
        self._soft: list[Ids] = []
        self.pins: list[tuple[Ids, str]] = []
        self.losses: list[tuple[Ids, str]] = []
        self.producers: list[tuple[Ids, fx.Node]] = []
        self.consumers: list[tuple[Ids, fx.Node]] = []

    def fresh(self, count: int, *, soft: bool = False) -> Ids:
        """New labels; soft ones, of copies and of fills, give way to others where only one dimension can carry labels."""
        ids = np.arange(self._count, self._count + count)
        self._count += count
        if soft:
            self._soft.append(ids)
        return ids

    def is_soft(self, labels: Ids) -> bool:
        return any(ids[0] <= labels.min() and labels.max() <= ids[-1] for ids in self._soft)

    def tie(self, *several: Labels) -> Labels:
        """Entries at the same place leave together; where one of the dimensions stays, all stay."""
        stays = next((labels for labels in several if isinstance(labels, str)), None)
        carried = [labels for labels in several if not isinstance(labels, str)]
        if stays is not None:
            for labels in carried:
                self.pin(labels, stays)
            return stays
        if len({len(labels) for labels in carried}) > 1:
            return self.tie(*carried, "it meets labels that repeat otherwise")
        for labels in carried[1:]:
            if labels is not carried[0]:
                self._edges.append((carried[0], labels))
        return carried[0]

    def tie_blocks(self, labels: Ids, blocks: int) -> Ids:
        """`labels` cut into equal blocks, the entries of a block leave together; one label for each block."""
        rows = labels.reshape(blocks, -1)
        self._edges.append((np.repeat(rows[:, 0], rows.shape[1]), rows.reshape(-1)))
        return rows[:, 0]

    def pin(self, labels: Labels, reason: str) -> None:
        """The entries stay."""
        if not isinstance(labels, str):
            self.pins.append((labels, reason))

    def lose(self, labels: Labels, reason: str) -> None:
        """The entries may leave, but zeros in their place are not the same."""
        if not isinstance(labels, str):
            self.losses.append((labels, reason))

    def array(self, axis: Axis, size: int) -> Ids:
        """The labels of `axis`, where it stays new ones that stay."""
        if not isinstance(axis.labels, str):
            return axis.labels
        labels = self.fresh(size)
        self.pin(labels, axis.labels)
        return labels

    def atoms(self) -> Ids:
        """For each label its atom: the smallest label that it is tied to."""
        roots = np.arange(self._count)
        if not self._edges:
            return roots
        one, other = (np.concatenate(side) for side in zip(*self._edges, strict=True))
        while True:
            here, there = roots[one], roots[other]
            apart = here != there
            if not apart.any():
                return roots
            np.minimum.at(roots, np.maximum(here, there)[apart], np.minimum(here, there)[apart])
            while not np.array_equal(roots, roots[roots]):
                roots = roots[roots]


def first_reasons(noted: Iterable[tuple[Ids, str]], roots: Ids) -> dict[int, str]:
    """For each atom the first reason that was noted for one of its labels."""
    found: dict[int, str] = {}
    for labels, reason in noted:
        for atom in np.unique(roots[labels]).tolist():
            found.setdefault(atom, reason)
    return found
