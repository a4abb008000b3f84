"""student, teacher ==> the student trained to give what the teacher gives, its zeros kept: one loop for whatever made it worse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.digest import digest
from fxpress_ir.errors import PassError
from torch import Tensor

from ..contract import GIVEN, Context, Lossy, Pass, Promise
from .checkpoint import Checkpoint
from .distillation import LOSSES
from .roles import Roles, roles
from .scratch import from_scratch
from .statistics import norms_with_statistics, reestimated
from .trainable import Dense, MaskLora, Trainable
from .training import How, Training, run

PARTS = ("all", "biases", "norms", "head", "mask-lora")
SCRATCH = "scratch"
STATISTICS = ("keep", "batch")


@dataclass(frozen=True)
class Recover(Pass):
    """Distillation on calibration data, which need no labels; give many samples, all of which are walked through in order.

    The teacher is the program that the pipeline began with, or any other of the same inputs and outputs. Training works on
    copies, by Adam with a cosine to zero and gradients clipped at norm 1. A weight that is zero stays zero, one that is not does
    not become zero, so that masks are the same before and after. A simulated program trains through its quantisers
    (straight-through).

    Options:
        steps: of one batch each; `epochs` above 0 says how many walks through the data instead.
        rate: the first learning rate.
        loss: of outputs: ``kl`` of scores along the last axis, or ``mse`` (relative) of embeddings.
        temperature: of ``kl``: above 1 the teacher tells more of what it is not sure of; a small loss of quality needs that.
        features: names of nodes of both programs whose values shall be alike, too (SquareHead), weighed by `feature_weight`.
        parameters: what is trained: ``all``, or any of ``biases``, ``norms``, ``head`` and ``mask-lora`` (PERP), the last with
            factors of `rank` and scale `scale` for every weight of a layer, merged at the end.
        perturbation: noise on the weights of each step, as a share of their root mean square: with `features`, the regulariser of
            PELA (row M12) for factorised layers, as far as its abstract tells; 0.01 is a beginning.
        sparsity: prune to this share of zeros by magnitude on the way, layer by layer, without the first and the last
            (Zhu and Gupta 2017), with a new mask every `prune_every` steps during the first two thirds; 0 keeps masks.
        statistics: of batch norms: ``keep`` them, or train by each ``batch``'s own and measure them anew at the end.
        baseline: ``scratch`` draws the weights anew and trains them equally long, zeros kept: what recovering has to
            beat; it needs ``statistics=batch`` where there are batch norms.
        state: a folder in which a run that was interrupted goes on, to the same bits.
        teacher: another one than the pipeline's input.

    Raises:
        PassError: an option has no meaning; there is no teacher, or one of another signature; nothing to train; the loss
            became NaN; the state is damaged.
        CalibrationError: no calibration data.
    """

    name: ClassVar[str] = "recover"
    promise: ClassVar[Promise] = Lossy(-10.0)  # against the program that comes in, which it is there to leave
    takes: ClassVar[tuple[str, ...]] = ("float", "simulated")
    steps: int = 100
    epochs: int = 0
    rate: float = 1e-3
    loss: str = "kl"
    temperature: float = 2.0
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    parameters: tuple[str, ...] = ("all",)
    rank: int = 8
    scale: float = 1.0
    sparsity: float = 0.0
    prune_every: int = 10
    perturbation: float = 0.0
    statistics: str = "keep"
    baseline: str = ""
    state: str = ""
    teacher: Program | None = field(default=None, metadata={GIVEN: True})

    def __post_init__(self) -> None:
        checks = (
            (self.loss in LOSSES, f"loss={self.loss!r}", f"one of {', '.join(LOSSES)}"),
            (bool(self.parameters) and set(self.parameters) <= set(PARTS), f"parameters={list(self.parameters)}", f"of {', '.join(PARTS)}"),
            ("all" not in self.parameters or len(self.parameters) == 1, f"parameters={list(self.parameters)}", "all stands alone"),
            (0 <= self.sparsity < 1, f"sparsity={self.sparsity:g}", "0 to keep masks, or below 1"),
            (not self.sparsity or self.parameters == ("all",), "sparsity grows in weights", 'parameters=["all"]'),
            (self.statistics in STATISTICS, f"statistics={self.statistics!r}", f"one of {', '.join(STATISTICS)}"),
            (self.baseline in ("", SCRATCH), f"baseline={self.baseline!r}", f"{SCRATCH!r} or nothing"),
            (not self.baseline or self.parameters == ("all",), "from scratch everything is trained", 'parameters=["all"]'),
            (self.steps > 0 and self.epochs >= 0, f"steps={self.steps}, epochs={self.epochs}", "steps above 0, epochs at least 0"),
            (self.rate > 0 and self.temperature > 0, f"rate={self.rate:g}, temperature={self.temperature:g}", "both above 0"),
            (0 <= self.perturbation < 1, f"perturbation={self.perturbation:g}", "0 for none, below 1"),
            (self.rank > 0 and self.prune_every > 0, f"rank={self.rank}, prune_every={self.prune_every}", "both above 0"),
        )
        for holds, what, way_on in checks:
            if not holds:
                raise PassError(what, where=self.name, way_on=way_on)

    def apply(self, program: Program, context: Context) -> Program:
        teacher = self._teacher(program, context)
        data = context.evidence.calibration
        if not self.baseline and not self.sparsity and _agree(program, teacher, data.first(program)):
            return program
        if self.baseline and self.statistics != "batch" and norms_with_statistics(program):
            what = "batch norms of a program from scratch have statistics of the old one"
            raise PassError(what, where=self.name, way_on='statistics="batch"')
        found, generator = roles(program), _generator(context.seed)
        student = from_scratch(program, found, generator) if self.baseline else program
        steps = self.epochs * len(data) if self.epochs else self.steps
        pruned = [name for name in found.weights if name not in (found.first, found.last, *found.tied)] if self.sparsity else []
        trainables = self._trainables(student, found, generator)
        how = How(
            *(
                steps,
                self.rate,
                self.loss,
                self.temperature,
                self.features,
                self.feature_weight,
                self.sparsity,
                self.prune_every,
                self.statistics == "batch",
                self.perturbation,
                context.seed,
            ),
        )
        training = Training(student, teacher, trainables, pruned, how)
        checkpoint = Checkpoint(self.state, self._key(program, teacher, context) if self.state else "")
        run(training, steps, lambda: data.batches(program), checkpoint, _told(context, steps))
        edit = student.edit()
        edit.tensors.update({name: item.merged() for name, item in trainables.items()})
        after = edit.finish()
        return reestimated(after, data.batches(program)) if self.statistics == "batch" else after

    def _teacher(self, program: Program, context: Context) -> Program:
        teacher = self.teacher or context.original
        if teacher is None:
            raise PassError("there is no teacher", where=self.name, way_on="run it in a pipeline, or give Recover(teacher=program)")
        if teacher.inputs != program.inputs or len(teacher.outputs()) != len(program.outputs()):
            raise PassError("the teacher takes or gives other values", where=self.name, way_on="give one of the same inputs and outputs")
        if not any(node.meta["val"].is_floating_point() for node in program.outputs()):
            raise PassError("no output is of floating point", where=self.name, way_on="recover the float or the simulated program")
        return teacher

    def _trainables(self, student: Program, found: Roles, generator: torch.Generator) -> dict[str, Trainable]:
        chosen = {"all": found.everything, "biases": found.biases, "norms": found.norms, "head": found.head}
        names = dict.fromkeys(name for part in self.parameters if part in chosen for name in chosen[part])
        trainables: dict[str, Trainable] = {name: Dense(student.tensors[name], _mask(student, name, found)) for name in names}
        if "mask-lora" in self.parameters:
            for name in found.weights:
                if name not in trainables:
                    trainables[name] = MaskLora(student.tensors[name], self.rank, self.scale, generator)
        if not trainables:
            what = f"the program has no {' or '.join(self.parameters)}"
            raise PassError(what, where=self.name, way_on=f"train others: {', '.join(PARTS)}")
        return trainables

    def _key(self, program: Program, teacher: Program, context: Context) -> str:
        """Of all that the result depends on, every batch among it; a walk of its own through the data."""
        key = hashlib.sha256("\n".join((program.hash, teacher.hash, str(replace(self, state="")), str(context.seed))).encode())
        for batch in context.evidence.calibration.batches(program):
            key.update("\n".join(("", *map(digest, batch))).encode())
        return key.hexdigest()


def _mask(program: Program, name: str, found: Roles) -> Tensor | None:
    """Of a weight that has zeros; a bias that is zero is no pruned one."""
    mask = program.tensors[name].detach() != 0
    return None if name not in found.weights or bool(mask.all()) else mask


def _generator(seed: int) -> torch.Generator:
    """Not seeded by `seed` itself: a model that was drawn under that seed would come out of `scratch` as its own first weights."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"recover {seed}".encode()).digest()[:7], "big"))


def _agree(program: Program, teacher: Program, batch: tuple[Tensor, ...]) -> bool:
    """There is nothing to recover."""
    return all(torch.equal(*pair) for pair in zip(program.run(*batch), teacher.run(*batch), strict=True))


def _told(context: Context, steps: int) -> Callable[[int], None]:
    def done(number: int) -> None:
        if context.progress is not None:
            context.progress("recovering", number, steps)

    return done
