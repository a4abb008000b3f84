"""How a search is made, the passes from a plan to integers, and what an answer became: a program with its measured size and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fxpress_backends.latency import Ratio
from fxpress_ir import Program
from fxpress_passes import Pass, PlaceQuantizers, QuantizeDyadic, Reconstruct, Recover, ToInteger
from fxpress_passes.allocate import Measured
from fxpress_passes.pipeline import Report
from fxpress_passes.quantize.precision import precision_of

from ..model_source import Source
from .goal import Budget
from .plan import JointPlan
from .space import FAMILIES


@dataclass(frozen=True)
class Weighing:
    """What a single choice is taken to lose.

    Attributes:
        weight: of channels and blocks.
        trained: as measured after a short training, where answers are trained; or else before any.
    """

    weight: float = 1.0
    trained: bool = True


@dataclass(frozen=True)
class How:
    """Settings of a search.

    Attributes:
        families: what may be chosen.
        rounds: of improving the answer around itself, where bits alone change.
        weighings: of what channels and blocks lose beside what ranks do: training gives back most of the former at once, and later more
            of the latter, by how much differs among networks. Each has its own answer, and so has each family alone; of those that hold
            the budgets the one is taken that loses least on calibration data which its training did not see.
        steps: of training on the float model's outputs, where more than bits changed; 0 for none.
        attempts: how often a budget that broke when measured is aimed at lower, or one that was not used up higher.
        repeats, threads: of latency measurements.
        sizes: of dynamic dimensions, at which latency is measured; those of one sample of the calibration data unless given.
        cache: the folder of measured costs; the user's own by default.
    """

    families: tuple[str, ...] = FAMILIES
    rounds: int = 1
    weighings: tuple[Weighing, ...] = (Weighing(), Weighing(4.0), Weighing(0.1, trained=False))
    steps: int = 300
    attempts: int = 6
    repeats: int = 50
    threads: int = 2
    sizes: Mapping[str, int] = field(default_factory=dict)
    cache: Path | None = None
    seed: int = 0


def training_loss(source: Source) -> str:
    """What `recover` brings near the float model's: scores, or outputs."""
    return "kl" if source.scores else "mse"


def finishing(plan: JointPlan, original: Program, source: Source) -> list[Pass]:
    """The passes from a program that a plan cut to integers: layers below 8 bits are reconstructed, by GPTQ, which needs no steps."""
    training: list[Pass] = [Recover(steps=plan.steps, loss=training_loss(source), teacher=original)] if plan.steps else []
    if all(precision_of(precision, "budget").weight == 8 for precision in plan.bits.values()):
        return [*training, QuantizeDyadic(bits=plan.entries)]
    return [*training, PlaceQuantizers(bits=plan.entries), Reconstruct(method="gptq"), ToInteger()]


@dataclass(frozen=True)
class Built:
    """What one answer became, and its size and, where asked for, seconds of a run.

    Attributes:
        ratio: of its time over the float model's, from the run that timed it.
        seconds: of a run, in the run that timed it; None where no latency is asked for.
    """

    plan: JointPlan
    program: Program
    passes: tuple[Pass, ...]
    report: Report
    measured: Mapping[str, Measured]
    ratio: Ratio | None
    seconds: Measured | None = None

    def judged(self, budgets: Sequence[Budget]) -> Built:
        """Held to an absolute latency by its own time; to a share by the ratio, since the machine's speed is not always the same."""
        if self.seconds is None or not any(budget.resource == "latency" and not budget.relative for budget in budgets):
            return self
        return replace(self, measured={**self.measured, "latency": self.seconds})
