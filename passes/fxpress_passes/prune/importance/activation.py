"""sqrt(sum over batches of mean(|x|)^2), x an atom where layers sum over it: heads, hidden units, channels, features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import Asked
from .gates import Gates, Read


def activation(asked: Asked) -> Mapping[str, Tensor]:
    """Minitron (Muralidharan et al. 2024, eq. 3 and 4): mean over the sequence (or the window), L2 over the batch.

    Heads are measured at the output of attention, features of the stream behind the normalisation, hidden units where the
    second layer reads them.
    """
    gates = Gates(asked.program, asked.groups)
    squares = {group.name: torch.zeros(group.size + 1, dtype=torch.float64) for group in gates.groups}

    def add(read: Read, x: Tensor) -> None:
        batch = () if read.dim == 0 else (0,)
        others = [dim for dim in range(x.dim()) if dim not in (read.dim, *batch)]
        size = x.double().abs()
        means = (size.mean(others) if others else size).square()
        squares[read.group.name].index_add_(0, read.along(x), means.sum(0) if batch else means)

    for batch in asked.context.evidence.calibration.batches(asked.program):
        with torch.no_grad():
            gates.outputs(batch, {}, add)
    return {name: found[:-1].sqrt() for name, found in squares.items()}
