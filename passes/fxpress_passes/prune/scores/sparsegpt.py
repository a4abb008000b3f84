"""W, H = E[x x^T] ==> a mask, and the kept weights moved so that W x stays (optimal brain surgeon, column by column)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 128
"""Columns between two updates of all later ones (Frantar and Alistarh 2023, section 3.4)."""
DAMPING = 0.01
"""Of the mean of H's diagonal, added to it (the same, section 4)."""
Choose = Callable[[Tensor], Tensor]
"""Scores [rows, columns of a block] ==> mask, True where a weight stays."""


def sparsegpt(weight: Tensor, moment: Tensor, choose: Choose, pattern: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """SparseGPT: W^2 / diag(H^-1)^2 in blocks of columns, each removed weight's error taken up by the columns after it.

    Args:
        weight: float64 [rows, columns].
        moment: float64 [columns, columns], up to a factor.
        choose: the mask of a block, or of the `pattern`'s neighbours with what the columns before them have left.

    Returns:
        The mask, and the weights under it, float64, zero elsewhere. Columns whose input is always zero go.

    Raises:
        ValueError: the damped moment is not positive definite (it holds NaN).
    """
    weight, keep = weight.clone(), torch.ones(weight.shape, dtype=torch.bool)
    factor, dead = _inverse_factor(moment)
    weight[:, dead] = 0
    block = BLOCK if pattern is None else BLOCK - BLOCK % pattern[1] or pattern[1]
    for start in range(0, weight.shape[1], block):
        end = min(start + block, weight.shape[1])
        part, upper = weight[:, start:end], factor[start:end, start:end]
        diagonal, errors = upper.diagonal(), torch.zeros_like(part)
        if pattern is None:
            keep[:, start:end] = choose((part / diagonal).square())
        for column in range(end - start):
            if pattern is not None and column % pattern[1] == 0:
                near = slice(column, column + pattern[1])
                keep[:, start:end][:, near] = choose((part[:, near] / diagonal[near]).square())
            kept = part[:, column] * keep[:, start + column]
            errors[:, column] = (part[:, column] - kept) / diagonal[column]
            part[:, column:] -= errors[:, column, None] * upper[column, column:]
            part[:, column] = kept
        weight[:, end:] -= errors @ factor[start:end, end:]
    keep &= weight != 0
    return keep, weight.where(keep, 0.0)


def _inverse_factor(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The upper Cholesky factor of the damped moment's inverse, and which columns never see anything but zeros."""
    diagonal = moment.diagonal()
    dead = diagonal == 0
    damped = moment + torch.diag(torch.where(dead, 1.0, DAMPING * diagonal.mean()))
    lower, failed = torch.linalg.cholesky_ex(damped)
    if not bool(failed):
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if bool(failed):
        raise ValueError("the second moment of its input is not positive definite")
    return upper, dead
