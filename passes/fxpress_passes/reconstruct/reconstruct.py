"""y = Q(W) x_q + b ==> y = W' x_q + b', W' on the same bits, with less of ||W' x_q + b' - (W x + b)||^2 on calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError

from ..contract import Context, Lossy, Pass, Promise
from ..evidence.calibration import Batch
from .fit import Fitter
from .layers import Layer, layers_of
from .methods import METHODS
from .methods.gptq import ORDERS
from .methods.task import How
from .store import store
from .walk import Decided, Pairs, walk


@dataclass(frozen=True)
class Reconstructed:
    """What the report shows of a layer: its squared error relative to its result's, before and after, on what was learnt from."""

    name: str
    before: float
    after: float
    zeros: int

    def __str__(self) -> str:
        kept = f", {self.zeros} zeros kept" if self.zeros else ""
        return f"{self.name}: error {self.before:.3g} -> {self.after:.3g}{kept}"


@dataclass(frozen=True)
class Reconstruct(Pass):
    """Choose each layer's integers by what the layer gives, not by what its weights are, layer after layer.

    The float layer's result is the aim; calibration data go in as moments, once, so that a layer's memory does not grow with
    them. The biases take up the mean error that is left. What comes out is a simulated program like any other: each weight is its
    integers times their scale. Weights that are zero stay zero. Where new scales are learnt, they are snapped to dyadics again.
    After an earlier ``reconstruct`` of the same weights in one pipeline the aim is still the float layer's result.

    Options:
        method: ``adaquant`` (row M232) lets weights and their steps go wherever the error is least; ``adaround`` learns whether to
            round down or up; ``flexround`` (row M89) learns divisors; ``gptq`` takes up each column's error in the next ones, without
            steps; ``statistics`` matches the spread of results (folded batch norms re-estimated); ``bias`` matches their means alone.
        sequential: a layer reads what the program gives with the layers before it as they were learnt; else what the float program
            gives. The live values of all samples are in memory at once.
        samples: of calibration data that are looked at, in whole batches.
        steps: of training, each on all samples.
        rate: the first learning rate of the method's main parameters; 0 for its own.
        step_sizes: ``adaquant`` and ``flexround`` learn the scales, too; layers that share a weight keep theirs.
        biases: take up the mean error.
        damping: of the second moments, as a share of their mean diagonal: holds weights that the data say little about.
        order: of ``gptq``'s columns: those with the largest ``activations`` first, or ``natural``.

    Raises:
        PassError: an option has no meaning; a layer's weight, or what it reads, is NaN or infinite.
        CalibrationError: no calibration data.
    """

    name: ClassVar[str] = "reconstruct"
    promise: ClassVar[Promise] = Lossy(-10.0)  # against the program that comes in, which it is there to leave
    takes: ClassVar[tuple[str, ...]] = ("simulated",)
    after: ClassVar[tuple[str, ...]] = ("place-quantizers", "allocate-bits")
    loses: ClassVar[bool] = True
    method: str = "adaquant"
    sequential: bool = True
    samples: int = 512
    steps: int = 200
    rate: float = 0.0
    step_sizes: bool = True
    biases: bool = True
    damping: float = 0.01
    order: str = "activations"

    def __post_init__(self) -> None:
        checks = (
            (self.method in METHODS, f"method={self.method!r}", f"one of {', '.join(METHODS)}"),
            (self.samples > 0 and self.steps > 0, f"samples={self.samples}, steps={self.steps}", "both above 0"),
            (self.rate >= 0, f"rate={self.rate:g}", "above 0, or 0 for the method's own"),
            (self.damping > 0, f"damping={self.damping:g}", "above 0, e.g. 0.01"),
            (self.order in ORDERS, f"order={self.order!r}", f"one of {', '.join(ORDERS)}"),
            (self.biases or self.method not in ("bias", "statistics"), f"method={self.method!r} moves biases", "biases=true"),
        )
        for holds, what, way_on in checks:
            if not holds:
                raise PassError(what, where=self.name, way_on=way_on)

    def apply(self, program: Program, context: Context) -> Program:
        layers = layers_of(program, context)
        if not layers:
            return program
        how = How(self.steps, self.rate, self.damping, self.order, self.step_sizes)
        fitter = Fitter(METHODS[self.method], how, program, _reference(program, layers, context), takes_mean=self.biases)
        edit, done = program.edit(), 0

        def decide(layer: Layer, pairs: Pairs) -> Decided:
            nonlocal done
            tell = partial(self._tell, context, done, len(layers))
            fitted = fitter.fit(layer, pairs, context, tell)
            done += 1
            tell(1.0)
            if fitted is None:
                return {}
            context.notes.append(Reconstructed(layer.name, fitted.before, fitted.after, fitted.zeros))
            return store(edit, layer, fitted)

        walk(program, fitter.reference, self._batches(program, context), layers, decide, sequential=self.sequential)
        return edit.finish()

    def _batches(self, program: Program, context: Context) -> list[Batch]:
        found, seen = list[Batch](), 0
        for batch in context.evidence.calibration.batches(program):
            found.append(batch)
            seen += len(batch[0])
            if seen >= self.samples:
                break
        return found

    def _tell(self, context: Context, done: int, layers: int, share: float) -> None:
        if context.progress is not None:
            context.progress("reconstructing", round((done + share) * self.steps), layers * self.steps)


def _reference(program: Program, layers: Sequence[Layer], context: Context) -> Program:
    """The program before this pass first moved the weights that it has now: what its layers give in floats is the aim."""
    found = program
    for before, after in reversed(context.losses):
        if before.stage == after.stage == "simulated" and all(_same(after, found, layer.weight) for layer in layers):
            found = before
    return found


def _same(first: Program, second: Program, name: str) -> bool:
    return name in first.tensors and name in second.tensors and torch.equal(first.tensors[name], second.tensors[name])
