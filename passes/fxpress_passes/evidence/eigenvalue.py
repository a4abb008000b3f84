"""program, batches, a loss ==> the largest eigenvalue of the loss's Hessian by one weight: power iteration (HAWQ, row M202)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from fxpress_ir import Program
from torch import Tensor
from torch.func import functional_call

from .calibration import Batch
from .gradients import Loss
from .hessian_trace import first_derivatives, products, second_derivatives


def top_eigenvalue(
    program: Program, weight: str, batches: Iterable[Batch], loss: Loss, *, tolerance: float = 1e-4, most: int = 200, seed: int = 0
) -> float:
    """Of the block of one weight, the largest in magnitude, of the mean over the batches.

    It ends where an iteration moves the estimate by less than `tolerance` of itself, after `most` iterations at the latest.

    Args:
        weight: the name of a tensor of the program.
        batches: walked once an iteration.

    Raises:
        CalibrationError: the loss is no scalar of the weights.
    """
    data = list(batches)
    vector = torch.randn(program.tensors[weight].shape, generator=torch.Generator().manual_seed(seed)).to(program.tensors[weight].dtype)
    before = 0.0
    for _ in range(most):
        vector = vector / vector.norm()
        product = _product(program, weight, data, loss, vector)
        found = float((vector * product).sum())
        if math.isclose(found, before, rel_tol=tolerance, abs_tol=1e-30):
            return found
        before, vector = found, product
        if float(product.norm()) == 0:
            return 0.0
    return before


def _product(program: Program, weight: str, batches: Iterable[Batch], loss: Loss, vector: Tensor) -> Tensor:
    total, count = torch.zeros_like(vector), 0
    for batch in batches:
        variable = {weight: program.tensors[weight].detach().clone().requires_grad_()}
        with second_derivatives():
            gradients = first_derivatives(loss(functional_call(program.module, variable, batch), batch), variable)
            total += products(gradients, variable, {weight: vector}, keep=False)[weight]
        count += 1
    return total / count
