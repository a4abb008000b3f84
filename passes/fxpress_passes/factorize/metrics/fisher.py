"""Each row of a weight counts by its Fisher information: ||D (W - W_r)||, D_i^2 = sum over j of E[(dL / dW_ij)^2]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor

from ...contract import Context
from ...evidence import Batch
from ...evidence.gradients import Gradients, Loss, samples
from ...low_rank.lens import Lens
from ..layers import Layer

_SAMPLES = 128
"""Samples whose gradients of a given loss are squared one by one."""
_LEAST = 1e-3
"""Rows count as at least this share of the heaviest, so that one that no gradient reached is not given up."""


def fisher(program: Program, layers: Sequence[Layer], context: Context, loss: Loss | None) -> dict[str, Lens]:
    """Weighted by rows as FWSVD (Hsu et al. 2022), a row being an output channel.

    Without a loss, the outputs are taken as means of unit normal distributions: the information is the diagonal of J^T J, J the
    outputs' derivatives, which is also how fast ||y - y'||^2 grows with each weight. It is estimated by gradients of z^T y with
    random signs z, one draw a batch, whose squares average to it. With a loss, its gradients are taken sample by sample.
    """
    names = {layer.name: str(arguments(layer.nodes[0])["weight"].target) for layer in layers}
    batches = context.evidence.calibration.batches(program)
    measured = Gradients(program, sorted(set(names.values())), "square", _Probe(context.seed) if loss is None else loss)
    for part in batches if loss is None else samples(program, batches, _SAMPLES):
        measured.observe(part)
    return {layer.name: Lens(rows=_rows(measured.found[names[layer.name]])) for layer in layers}


def _rows(squares: Tensor) -> Tensor:
    rows = squares.double().flatten(1).sum(1).sqrt()
    heaviest = float(rows.max())
    return rows.clamp_min(_LEAST * heaviest) / heaviest if heaviest > 0 else torch.ones_like(rows)


class _Probe:
    """z^T y with new random signs z at each call."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        parts = [output for output in outputs if output.is_floating_point()]
        signs = [torch.randint(0, 2, part.shape, generator=self._generator).to(part.dtype) * 2 - 1 for part in parts]
        return torch.stack([(part * sign).sum() for part, sign in zip(parts, signs, strict=True)]).sum()
