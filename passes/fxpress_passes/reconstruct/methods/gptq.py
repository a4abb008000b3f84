"""W, H = E[x x^T] ==> integers, column by column, each column's rounding error taken up by the columns after it."""

from __future__ import annotations

import torch
from torch import Tensor

from .task import Learnt, Task

BLOCK = 128
"""Columns between two updates of all later ones (Frantar et al. 2023, section 3.3)."""
ORDERS = ("activations", "natural")


class Gptq:
    """Frantar et al. 2023, on the scales that the quantiser has.

    What the layer's inputs have lost before it is made up for first, as far as the damped moment lets it: columns begin at the weight
    that gives the least error without any rounding.
    """

    name, falls, moves = "gptq", True, True

    def learn(self, task: Task) -> Learnt:
        """Groups one by one; columns with the largest inputs first unless the order is ``natural``."""
        damped = task.error.damped(task.how.damping)
        best = torch.linalg.solve(damped, task.error.crossed.transpose(1, 2)).transpose(1, 2)
        start = task.error.weight - best
        found = [gptq(start[g], damped[g], task.steps[g], task.most, task.kept[g], task.how.order) for g in range(task.matrix.groups)]
        return Learnt(torch.stack(found), task.scales)


def gptq(weight: Tensor, moment: Tensor, steps: Tensor, most: int, kept: Tensor, order: str = "natural") -> Tensor:
    """Integers for one group.

    Args:
        weight: float64 [R, K].
        moment: float64 [K, K], damped, up to a factor.
        steps: float64 [R, 1].
        kept: False where the integer is 0, [R, K].
        order: ``activations`` begins with the columns of the largest inputs.

    Raises:
        ValueError: the moment is not positive definite.
    """
    places = moment.diagonal().argsort(descending=True, stable=True) if order == "activations" else torch.arange(len(moment))
    weight, moment, kept = weight[:, places].clone(), moment[places[:, None], places], kept[:, places]
    factor, codes = _inverse_factor(moment), torch.zeros_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        part, upper = weight[:, start:end], factor[start:end, start:end]
        errors = torch.zeros_like(part)
        for column in range(end - start):
            code = torch.round(part[:, column] / steps[:, 0]).clamp(-most, most) * kept[:, start + column]
            errors[:, column] = (part[:, column] - code * steps[:, 0]) / upper[column, column]
            part[:, column:] -= errors[:, column, None] * upper[column, column:]
            codes[:, start + column] = code
        weight[:, end:] -= errors @ factor[start:end, end:]
    return codes[:, places.argsort()]


def _inverse_factor(moment: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse."""
    upper: Tensor
    lower, failed = torch.linalg.cholesky_ex(moment)
    if not bool(failed):
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if bool(failed):
        raise ValueError("the second moment of its input is not positive definite")
    return upper
