"""What a score of atoms gets: the program, the groups that may shrink, calibration data, a loss, a generator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.coupling import Group
from torch import Tensor

from ...contract import Context
from ...evidence.gradients import Loss


@dataclass(frozen=True)
class Asked:
    """One question: how much does each atom of these groups of `program` matter.

    Attributes:
        loss: of (outputs, inputs), what scores by gradient and by removal look at.
    """

    program: Program
    groups: Sequence[Group]
    context: Context
    loss: Loss

    def generator(self, name: str) -> torch.Generator:
        """Seeded by the pipeline's seed and `name`, so that no group's numbers depend on another's."""
        text = f"{self.context.seed} {name}"
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


Importance = Callable[[Asked], Mapping[str, Tensor]]
"""group name ==> float64 [atoms]; the lowest go first. A group of which the score can say nothing is left out."""
