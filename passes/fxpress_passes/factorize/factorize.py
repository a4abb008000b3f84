"""W ==> W_2 W_1 of lower rank: a linear layer becomes two, a convolution two or three, where that saves parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from fxpress_ir import Program
from fxpress_ir.errors import PassError
from torch import Size

from ..contract import GIVEN, Close, Context, Lossy, Pass, Promise
from ..evidence.gradients import Loss
from ..latency import Latency, not_slower
from ..low_rank.decompositions import DECOMPOSITIONS, Decomposition, Rung
from ..low_rank.lens import Lens
from ..low_rank.split import split
from .allocate import by_energy, by_ratio
from .break_even import BreakEven
from .layers import Layer, float_layers
from .metrics import METRICS
from .plan import RankPlan, Split


class Faster(Protocol):
    """Whether a layer whose weight has `shape` is faster on the target when it is split by a decomposition at `ranks`."""

    def __call__(self, shape: Size, kind: str, ranks: tuple[int, ...]) -> bool: ...


@dataclass(frozen=True)
class Factorize(Pass):
    """Low-rank factorisation of linear layers and convolutions, by singular values in a metric.

    `decide` makes the plan, `cut` only cuts by one. Layers are factorised where that saves parameters, and time where `faster`
    knows; grouped convolutions, and weights that something else reads whole, are refused. A weight that several layers share is
    factorised once.

    Options:
        energy: the share of squared singular values that each layer keeps; 1 factorises only what is of low rank already.
        ratio: the share of the factorisable layers' parameters to remove, where the least energy is lost; 0 goes by `energy`.
        metric: in which errors are measured: ``plain``, ``activations`` or ``fisher``; where energy is 1, plain, since nothing is lost.
        convolutions: how they are split: ``channel``, ``spatial`` or ``tucker``; what those refuse is split as ``channel``.
        faster: a `Faster`; None for parameters alone. Only from Python.
        break_even: ``fx.latency_on(target)``, measured on single layers: a rank is taken only where the layer is found faster than
            whole. None for parameters alone. Only from Python.
        latency: the same of programs, None for the pipeline's: where the factorised program is not found faster, it stays whole and
            the report says so. Without it nothing is claimed about time. Only from Python.
        loss: of the Fisher information, of (outputs, inputs); None for the one that `metrics.fisher` describes. Only from Python.
    """

    name: ClassVar[str] = "factorize"
    promise: ClassVar[Promise] = Lossy(5.0)
    needs: ClassVar[tuple[str, ...]] = ("compose-linear",)
    energy: float = 0.98
    ratio: float = 0.0
    metric: str = "activations"
    convolutions: str = "channel"
    faster: Faster | None = field(default=None, metadata={GIVEN: True})
    break_even: Latency | None = field(default=None, metadata={GIVEN: True})
    latency: Latency | None = field(default=None, metadata={GIVEN: True})
    loss: Loss | None = field(default=None, metadata={GIVEN: True})

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise PassError(f"energy={self.energy:g}", where=self.name, way_on="above 0, 1 at most")
        if not 0 <= self.ratio < 1:
            raise PassError(f"ratio={self.ratio:g}", where=self.name, way_on="0 for none, below 1")
        for option, known in (("metric", METRICS), ("convolutions", DECOMPOSITIONS)):
            if getattr(self, option) not in known:
                raise PassError(f"{option}={getattr(self, option)!r}", where=self.name, way_on=f"one of {', '.join(known)}")
        if self._is_whole:
            object.__setattr__(self, "promise", Close(1e-4, "a sum is taken in two parts, by factors rounded to float32"))

    @property
    def _is_whole(self) -> bool:
        return self.energy == 1 and self.ratio == 0

    def apply(self, program: Program, context: Context) -> Program:
        layers = float_layers(program, context)
        found = self._decompositions(program, layers, context)
        plan = self._plan(program, layers, found, context)
        return not_slower(_cut(program, plan, layers, found), program, self.latency, context) if plan.splits else program

    def decide(self, program: Program, context: Context) -> RankPlan:
        """The plan for a program.

        Raises:
            PassError: `ratio` cannot be reached.
            CalibrationError: the metric needs data, and there are none.
        """
        layers = float_layers(program, context)
        return self._plan(program, layers, self._decompositions(program, layers, context), context)

    def cut(self, program: Program, plan: RankPlan, context: Context) -> Program:
        """The program cut by a plan, its factors computed in this pass's metric; a plan that was edited or stored works the same.

        Raises:
            PassError: the plan was made for another program, or names what is no factorisable layer, or a decomposition or ranks
                that do not fit one.
        """
        if plan.program_hash != program.hash:
            what = f"the plan is for program {plan.program_hash[:12]}, this one is {program.hash[:12]}"
            raise PassError(what, where=self.name, way_on="decide on this program")
        layers = [layer for layer in float_layers(program, context) if layer.name in plan.splits]
        unknown = sorted(set(plan.splits) - {layer.name for layer in layers})
        if unknown:
            raise PassError(f"the plan names {unknown[0]!r}", where=self.name, way_on="decide() names those that are")
        for layer in layers:
            kind = plan.splits[layer.name].kind
            reason = DECOMPOSITIONS[kind].refused(layer.weight.shape)
            if reason is not None:
                raise PassError(f"kind={kind}: {reason}", where=f"{self.name}, layer {layer.name}", way_on="kind=channel suits every layer")
        lenses = self._lenses(program, layers, context)
        blind = sorted(set(plan.splits) - set(lenses))
        if blind:
            raise PassError(f"metric={self.metric} cannot see {blind[0]}", where=self.name, way_on="cut by metric=plain")
        found = {layer.name: DECOMPOSITIONS[plan.splits[layer.name].kind](layer.weight.double(), lenses[layer.name]) for layer in layers}
        return _cut(program, plan, layers, found)

    def _lenses(self, program: Program, layers: Sequence[Layer], context: Context) -> dict[str, Lens]:
        return METRICS["plain" if self._is_whole else self.metric](program, layers, context, self.loss)

    def _decompositions(self, program: Program, layers: Sequence[Layer], context: Context) -> dict[str, Decomposition]:
        lenses = self._lenses(program, layers, context) if layers else {}
        return {
            layer.name: DECOMPOSITIONS[self._kind(layer)](layer.weight.double(), lenses[layer.name])
            for layer in layers
            if layer.name in lenses
        }

    def _kind(self, layer: Layer) -> str:
        kind = DECOMPOSITIONS[self.convolutions]
        return "channel" if kind.refused(layer.weight.shape) else kind.name

    def _plan(self, program: Program, layers: Sequence[Layer], found: Mapping[str, Decomposition], context: Context) -> RankPlan:
        layers = [layer for layer in layers if layer.name in found]
        even = None if self.break_even is None else BreakEven(program, self.break_even, context)
        chosen = self._by_ratio(layers, found, even, context) if self.ratio else self._by_energy(layers, found, even, context)
        splits = {
            layer.name: Split(self._kind(layer), chosen[layer.name].ranks, layer.weight.numel(), chosen[layer.name].parameters)
            for layer in layers
            if layer.name in chosen
        }
        return RankPlan(program.hash, splits)

    def _by_energy(
        self, layers: Sequence[Layer], found: Mapping[str, Decomposition], even: BreakEven | None, context: Context
    ) -> dict[str, Rung]:
        chosen = {}
        for layer in layers:
            rung = by_energy(found[layer.name].rungs, self.energy)
            ranks = ", ".join(map(str, rung.ranks))
            if rung.parameters >= layer.weight.numel():
                reason = f"ranks {ranks}" if len(rung.ranks) > 1 else f"rank {ranks}"
                what = f"{reason} would take {rung.parameters} parameters for {layer.weight.numel()}"
                context.refuse(layer.nodes[0], what, "lower the energy" if self.energy < 1 else "")
            elif not self._paying(layer, found[layer.name], [rung], even):
                context.refuse(layer.nodes[0], f"it is not faster on the target at rank {ranks}", "lower the energy")
            else:
                chosen[layer.name] = rung
        return chosen

    def _by_ratio(
        self, layers: Sequence[Layer], found: Mapping[str, Decomposition], even: BreakEven | None, context: Context
    ) -> dict[str, Rung]:
        dense = {layer.name: layer.weight.numel() for layer in layers}
        rungs = {}
        for layer in layers:
            fewer = [rung for rung in found[layer.name].rungs if rung.parameters < dense[layer.name]]
            rungs[layer.name] = self._paying(layer, found[layer.name], fewer, even)
        timed = self.faster is not None or even is not None
        for layer in layers:
            if not rungs[layer.name]:
                what = "takes fewer parameters and is faster on the target" if timed else "takes fewer parameters"
                context.refuse(layer.nodes[0], f"no rank {what}")
        return by_ratio(rungs, dense, self.ratio)

    def _paying(self, layer: Layer, found: Decomposition, rungs: Sequence[Rung], even: BreakEven | None) -> list[Rung]:
        """Those of `rungs`, by falling parameters, that are faster, as far as one knows."""
        known = [rung for rung in rungs if self.faster is None or self.faster(layer.weight.shape, self._kind(layer), rung.ranks)]
        return known if even is None else even.paying(layer, found, known)


def _cut(program: Program, plan: RankPlan, layers: Sequence[Layer], found: Mapping[str, Decomposition]) -> Program:
    edit = program.edit()
    for layer in layers:
        if layer.name in plan.splits:
            pieces = found[layer.name].pieces(plan.splits[layer.name].ranks)
            split(edit, [edit.here(node) for node in layer.nodes], pieces, layer.weight.dtype)
    return edit.finish()
