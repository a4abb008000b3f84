"""step ==> learning rate (cosine), share of zeros (cubic), mask (the smallest go)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRUNED_BY = 2 / 3
"""The share of all steps after which masks are final and the rest of the steps only recovers."""


def cosine(step: int, steps: int) -> float:
    """The factor of the learning rate at a step, from 1 to almost 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def gradual_sparsity(step: int, initial: float, final: float, start: int, end: int) -> float:
    """s_f + (s_i - s_f) * (1 - (t - t_0) / (n dt))^3, from step `start` = t_0 to `end` = t_0 + n dt (Zhu and Gupta 2017, eq. 1)."""
    if step >= end:
        return final
    done = max(step - start, 0) / (end - start)
    return final + (initial - final) * (1 - done) ** 3


def smallest_masked(weight: Tensor, sparsity: float) -> Tensor:
    """False for this share of the weight's elements, those of the smallest magnitude, the earlier ones among equals."""
    flat = weight.detach().abs().reshape(-1)
    mask = torch.ones(flat.shape, dtype=torch.bool)
    mask[flat.argsort(dim=0, stable=True)[: round(sparsity * len(flat))]] = False
    return mask.reshape(weight.shape)
