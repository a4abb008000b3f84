"""outputs and features of a student and its teacher ==> a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

LOSSES = ("kl", "mse")


def outputs_loss(kind: str, student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float) -> Tensor:
    """The sum over floating-point outputs of ``kl`` or ``mse``."""
    pairs = [(s, t) for s, t in zip(student, teacher, strict=True) if t.is_floating_point()]
    return torch.stack([(_kl(s, t, temperature) if kind == "kl" else relative_error(s, t)) for s, t in pairs]).sum()


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T), softmax(s / T)) along the last axis, the mean of all others (Hinton et al. 2015, section 2)."""
    s, t = ((scores / temperature).log_softmax(-1).reshape(-1, scores.shape[-1]) for scores in (student, teacher))
    return functional.kl_div(s, t, reduction="batchmean", log_target=True) * temperature**2


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """||t - s||^2 / ||t||^2: the same for features of any scale."""
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-30)


def square_head(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean over layers of the relative error of their features (SquareHead, Kurtic et al. 2023, eq. 1)."""
    return torch.stack([relative_error(s, t) for s, t in zip(student, teacher, strict=True)]).mean()
