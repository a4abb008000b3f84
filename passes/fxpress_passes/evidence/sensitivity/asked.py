"""What a measure of sensitivity is asked: choices, each as the new values that it gives some of a program's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from fxpress_ir import Program
from fxpress_ir.errors import PassError
from torch import Tensor

from ...contract import Context
from ..calibration import Batch
from ..gradients import Loss
from ..losses import DISTANCES, LOSSES, Distance


@dataclass(frozen=True)
class Perturbation:
    """One choice.

    Attributes:
        weights: what it makes of which tensors of the program (same shapes); made anew when asked.
        inputs: what it makes of the first operand of which nodes, by their names; only measures that try choices see it.
    """

    name: str
    weights: Callable[[], Mapping[str, Tensor]]
    inputs: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A question to a measure.

    Attributes:
        program: in floats, the original.
        perturbations: the choices.
        context: calibration data, seed and progress.
        loss: `LOSSES`' name of what derivatives are taken of.
        most: batches that are looked at.
        base: what weights have before a choice is tried; measures by derivatives do not know it.
    """

    program: Program
    perturbations: Sequence[Perturbation]
    context: Context
    loss: str = "divergence"
    most: int = 4
    base: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def batches(self) -> list[Batch]:
        """The first batches of the calibration data."""
        return list(islice(self.context.evidence.calibration.batches(self.program), self.most))

    @property
    def differentiable(self) -> Loss:
        return LOSSES[self.loss]

    @property
    def distance(self) -> Distance:
        """Of outputs: what `loss` measures, the divergence where that is no distance."""
        return DISTANCES[self.distance_name]

    @property
    def distance_name(self) -> str:
        return self.loss if self.loss in DISTANCES else "divergence"

    @cached_property
    def touched(self) -> list[str]:
        """Names of the tensors that any choice changes, in the program's order."""
        names = {name for one in self.perturbations for name in one.weights()}
        return [name for name in self.program.tensors if name in names]

    def changes(self, one: Perturbation) -> dict[str, Tensor]:
        """What a choice adds to the weights.

        Raises:
            PassError: it changes inputs too, which this does not tell.
        """
        if one.inputs:
            raise PassError(f"{one.name!r} changes inputs", where="sensitivity", way_on="measure it by distance or noise, which try it")
        return {name: value - self.program.tensors[name].detach() for name, value in one.weights().items()}

    def tell(self, done: int, total: int) -> None:
        """Say how many runs are done."""
        if self.context.progress is not None:
            self.context.progress("measuring sensitivity", done, total)


Measure = Callable[[Asked], Mapping[str, float]]
"""A question ==> by choice how much it is expected to cost; only the order and the sums count, not the unit."""
