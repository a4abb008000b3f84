"""y = W_c x + b ==> y = W_c x + b + B A x, where B A is the best approximation of low rank of what the weight lost, W - W_c."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from torch import Tensor

from ..contract import GIVEN, Context, Lossy, Pass, Promise
from ..evidence import SecondMoment
from ..evidence.second_moments import moment_key, unmeasured
from ..low_rank.decompositions import Piece
from ..low_rank.decompositions.channel import Channel
from ..low_rank.lens import Lens
from .lost import Lost, lost_on_the_way, lost_since
from .side_path import SidePath, add_side_paths, quantize_side_paths

METRICS = ("plain", "activations")


@dataclass(frozen=True)
class Compensate(Pass):
    """A low-rank side path for the error of each layer's weight: LoRC (Yao et al. 2023) or EoRA (Liu et al. 2024).

    The error is what the quantiser of a simulated program took, and what `sparsify` took before it in the same pipeline, where the
    weight is still as that left it: fold and equalise first, ``sparsify{pattern="2:4"}, place-quantizers, compensate``. A weight
    that was changed in between, by `recover` for one, counts as it came to its quantiser. Side paths are quantised too: weights of
    8 bits, the inner value on 8, and both sides of the sum on the layer's own grid refined to 16 bits, so that the sum rounds once.
    On a float program there is the loss by `sparsify`; or `reference` is the program before the weights were changed: the same
    nodes, other tensors. After `correct-bias`, which took the mean error of quantisers away, inputs count by their distance from
    their means.

    Options:
        rank: of side paths; layers where one would take as many parameters as the weight are refused.
        metric: ``activations`` leaves the least of ||(W - W_c - B A) X|| on calibration data (EoRA), ``plain`` of ||W - W_c - B A||.
        below: in dB; layers whose weight's error alone is farther below its results are left alone.
        reference: the float program before the loss. Only from Python.
    """

    name: ClassVar[str] = "compensate"
    promise: ClassVar[Promise] = Lossy(0.0)
    takes: ClassVar[tuple[str, ...]] = ("float", "simulated")
    after: ClassVar[tuple[str, ...]] = ("place-quantizers", "allocate-bits", "reconstruct", "correct-bias")
    rank: int = 4
    metric: str = "activations"
    below: float = 100.0
    reference: Program | None = field(default=None, metadata={GIVEN: True})

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise PassError(f"rank={self.rank}", where=self.name, way_on="at least 1")
        if self.metric not in METRICS:
            raise PassError(f"metric={self.metric!r}", where=self.name, way_on=f"one of {', '.join(METRICS)}")
        if self.reference is not None:
            object.__setattr__(self, "takes", ("float",))
            object.__setattr__(self, "after", ())

    def apply(self, program: Program, context: Context) -> Program:
        found = lost_on_the_way(program, context) if self.reference is None else lost_since(self.reference, program, context)
        paths = [path for lost in found if (path := self._path(program, lost, context)) is not None]
        if not paths:
            return program
        added = add_side_paths(program, paths)
        return added if program.stage == "float" else quantize_side_paths(added, paths, context.evidence.ranges(added))

    def _path(self, program: Program, lost: Lost, context: Context) -> SidePath | None:
        rows, columns = lost.error.shape[0], lost.error.shape[1:].numel()
        cost, whole = self.rank * (rows + columns), rows * columns
        if cost >= whole:
            context.refuse(lost.node, f"a side path of rank {self.rank} would take {cost} parameters beside {whole}", "lower the rank")
            return None
        centred = program.stage == "simulated" and any(done.startswith("correct-bias") for done in program.history)
        needed = centred or self.metric == "activations"
        reason = unmeasured(lost.node) if needed else None
        if reason is not None:
            context.refuse(lost.node, reason, "" if centred else "metric=plain needs none")
            return None
        seen = context.evidence.second_moments(program)[moment_key(lost.node)] if needed else None
        lens = Lens() if seen is None or self.metric == "plain" else Lens(moment=_moment(seen, centred))
        far = _decibels(lost, lens)
        if far >= self.below:
            context.refuse(lost.node, f"its weight's error is {far:.1f} dB below its results")
            return None
        pieces = Channel(lost.error, lens).pieces((self.rank,))
        return SidePath(lost.node, pieces, _mean(lost, pieces, seen) if seen is not None and centred else None)


def _moment(seen: SecondMoment, centred: bool) -> Tensor:
    return torch.from_numpy(seen.covariance if centred else seen.moment)


def _mean(lost: Lost, pieces: tuple[Piece, ...], seen: SecondMoment) -> Tensor:
    """The mean error that is left beside the path: D E[x] - B A E[x], D what was lost before the quantiser."""
    first, last = (piece.weight.flatten(1) for piece in pieces)
    mean = torch.from_numpy(seen.mean)
    taken = last @ (first @ mean)
    return -taken if lost.pruned is None else lost.pruned.flatten(1) @ mean - taken


def _decibels(lost: Lost, lens: Lens) -> float:
    """Of the results' energy over that of the error, as the lens sees both; infinite where nothing was lost."""
    signal, noise = (lens.energy(part.flatten(1)) for part in (lost.weight, lost.error))
    return float("inf") if noise == 0 else float(10 * torch.log10(torch.tensor(signal / noise, dtype=torch.float64)))
