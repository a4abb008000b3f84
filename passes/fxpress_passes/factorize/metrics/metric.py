"""A metric: a program's layers ==> the lens of each that has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fxpress_ir import Program

from ...contract import Context
from ...evidence.gradients import Loss
from ...low_rank.lens import Lens
from ..layers import Layer


class Metric(Protocol):
    """Gives lenses by layers' names; layers that it has none for are refused."""

    def __call__(self, program: Program, layers: Sequence[Layer], context: Context, loss: Loss | None) -> dict[str, Lens]: ...
