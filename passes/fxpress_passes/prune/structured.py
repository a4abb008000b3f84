"""Whole atoms of coupled groups leave: score them, choose, slice every tensor that is tied to them. What passes share that do this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fxpress_ir import Program
from fxpress_ir.analysis.coupling import Group, coupled_groups
from fxpress_ir.errors import PassError
from fxpress_ir.slicing import Plan, slice_atoms

from ..contract import GIVEN, Context, Lossy, Pass, Promise, Refused
from ..evidence.gradients import Loss, own_cross_entropy
from ..latency import Latency, not_slower
from .budget import BUDGETS, Kept, check_budgets, within_cost, within_time
from .importance import COMPARABLE, IMPORTANCES, Asked
from .kinds import kind_of
from .shares import SCOPES, Scored, chosen
from .stale import report_stale_norms


@dataclass(frozen=True)
class Structured(Pass):
    """Base of the passes that slice groups of one kind."""

    kind: ClassVar[str]
    alike: ClassVar[tuple[str, ...]] = ()
    """Kinds that one could take for this pass's: they are refused with the reason."""
    promise: ClassVar[Promise] = Lossy(0.0)
    ratio: float = 0.5
    align: int = 1
    scope: str = "layer"
    score: str = "magnitude"
    macs: float = 0.0
    parameters: float = 0.0
    time: float = 0.0
    loss: Loss | None = field(default=None, metadata={GIVEN: True})
    latency: Latency | None = field(default=None, metadata={GIVEN: True})
    plan: Plan | None = field(default=None, metadata={GIVEN: True})

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            what = f"ratio={self.ratio:g} would leave nothing" if self.ratio >= 1 else f"ratio={self.ratio:g} is no share"
            raise PassError(what, where=self.name, way_on="from 0 to below 1, e.g. 0.5")
        if self.align < 1:
            raise PassError(f"align={self.align}", where=self.name, way_on="1 or more, e.g. 8")
        if self.scope not in SCOPES:
            raise PassError(f"scope={self.scope!r}", where=self.name, way_on=f"one of {', '.join(SCOPES)}")
        if self.score not in IMPORTANCES:
            raise PassError(f"unknown score {self.score!r}", where=self.name, way_on=f"one of {', '.join(IMPORTANCES)}")
        check_budgets({name: getattr(self, name) for name in BUDGETS}, self.name)

    def apply(self, program: Program, context: Context) -> Program:
        plan = self.plan if self.plan is not None else self.decide(program, context)
        pruned = not_slower(slice_atoms(program, plan), program, self.latency, context)
        report_stale_norms(pruned, program, context)
        return pruned

    def decide(self, program: Program, context: Context) -> Plan:
        """Which atoms stay, without removing the others.

        Raises:
            PassError: a score is NaN; the budget of MACs, parameters or time cannot be reached, or time is not measured.
            CalibrationError: the score needs data and has none, or they do not fit the program.
        """
        groups = self._groups(program, context)
        found = self._scored(program, groups, context)
        kept = self._kept(program, found, context)
        return Plan.of(program, {name: atoms for name, atoms in kept.items() if len(atoms) < len(found[name].scores)})

    def _kept(self, program: Program, found: Mapping[str, Scored], context: Context) -> Kept:
        def keep(ratio: float) -> Kept:
            return chosen(found, ratio, self.scope, self.score in COMPARABLE)

        if self.macs or self.parameters:
            what = "macs" if self.macs else "parameters"
            return within_cost(program, keep, what, getattr(self, what), where=self.name)
        if not self.time:
            return keep(self.ratio)
        latency = self.latency or context.latency
        if latency is None:
            way_on = "give latency=fx.latency_on(target), or Pipeline.run latency="
            raise PassError(f"time={self.time:g} asks for a measurement", where=self.name, way_on=way_on)
        return within_time(program, keep, latency, self.time, where=self.name)

    def _groups(self, program: Program, context: Context) -> list[Group]:
        """Those of this pass's kind; what it would take but for a reason is refused."""
        groups, taken = coupled_groups(program), []
        for group in groups.values():
            kind = kind_of(group, groups, program)
            if kind.name == self.kind and group.prunable:
                taken.append(group)
            elif kind.name == self.kind and group.size > 1:
                context.refusals.append(Refused(group.name, group.unprunable, "it stays whole"))
            elif kind.name in self.alike and group.prunable:
                context.refusals.append(Refused(group.name, kind.reason, f"prune-{kind.name} takes it"))
        return taken

    def _scored(self, program: Program, groups: list[Group], context: Context) -> Mapping[str, Scored]:
        asked = Asked(program, groups, context, self.loss or own_cross_entropy)
        scores = IMPORTANCES[self.score](asked) if groups else {}
        found = {}
        for group in groups:
            if group.name not in scores:
                context.refusals.append(Refused(group.name, f"{self.score} sees no layer of it", "choose another score"))
                continue
            if not bool(scores[group.name].isfinite().all()):
                what = f"the {self.score} score of {group.name!r} is NaN or infinite"
                raise PassError(what, where=self.name, way_on="repair the model and the data, or choose another score")
            found[group.name] = Scored.of(group, scores[group.name], self.align)
            if found[group.name].block >= group.size and self.align > 1:
                reason = f"its {group.size} atoms are no more than one block of align={self.align}"
                context.refusals.append(Refused(group.name, reason, "a smaller align"))
        return found
