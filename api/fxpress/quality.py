"""scores before and after, labels ==> accuracy, agreement and negative flips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """How a compressed classifier stands to the original, on the same labelled data.

    Attributes:
        accuracy: share of samples that the compressed model gets right (0 to 1).
        original: the same of the original.
        agreement: share of samples on which both predict the same class.
        negative_flips: share of samples that the original got right and the compressed model gets wrong
            (negative flip rate, catalogue row M33).
    """

    accuracy: float
    original: float
    agreement: float
    negative_flips: float


def agreement(original: Tensor, compressed: Tensor, labels: Tensor) -> Agreement:
    """Compare scores [n, classes] of two models with labels [n]."""
    before, after = original.argmax(1), compressed.argmax(1)

    def share(which: Tensor) -> float:
        return float(which.double().mean())

    return Agreement(
        accuracy=share(after == labels),
        original=share(before == labels),
        agreement=share(after == before),
        negative_flips=share((before == labels) & (after != labels)),
    )


def sqnr(original: Tensor, other: Tensor) -> float:
    """Signal to quantisation-noise ratio in dB; infinite where nothing differs."""
    noise = (original.double() - other.double()).square().sum()
    return float("inf") if noise == 0 else float(10 * torch.log10(original.double().square().sum() / noise))
