"""scores [rows, columns] ==> masks, True where a weight stays: a share of each group, or n of every m neighbours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

COMPARED = ("row", "layer", "global")
"""What a weight's score is compared with."""


def parse_pattern(text: str) -> tuple[int, int]:
    """``2:4`` ==> (2, 4): of every 4 neighbours along the reduction axis at most 2 are not zero.

    Raises:
        ValueError: `text` is no such pattern.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not 0 < int(match[1]) < int(match[2]):
        raise ValueError(text)
    return int(match[1]), int(match[2])


def zeros(sparsity: float, count: int) -> int:
    """How many of `count` weights go."""
    return round(sparsity * count)


def share(scores: Tensor, sparsity: float) -> Tensor:
    """In each row the `zeros` lowest go; among equals the earlier ones."""
    order = scores.argsort(dim=1, stable=True)[:, : zeros(sparsity, scores.shape[1])]
    return torch.ones(scores.shape, dtype=torch.bool).scatter_(1, order, False)


def pattern(scores: Tensor, kept: int, of: int) -> Tensor:
    """In each `of` neighbours of a row the `kept` highest stay; the columns are a multiple of `of`."""
    return share(scores.reshape(-1, of), (of - kept) / of).reshape(scores.shape)


def over_all(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """The lowest of all scores go, wherever they are."""
    flat = torch.cat([part.reshape(-1) for part in scores.values()])
    kept = torch.split(share(flat[None], sparsity)[0], [part.numel() for part in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, kept, strict=True)}
