"""x + f(x) ==> x: residual blocks that change their input least leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block, residual_blocks
from fxpress_ir.errors import PassError
from fxpress_ir.slicing import remove_blocks
from torch import Tensor
from torch.nn import functional

from ..contract import GIVEN, Context, Lossy, Pass, Promise, Refused
from ..evidence.gradients import Loss
from ..latency import Latency, not_slower, time_ratio
from .block_influence import BlockInfluence
from .budget import BUDGETS, MORE, check_budgets
from .stale import report_stale_norms


@dataclass(frozen=True)
class BlockPlan:
    """Which blocks of one program leave.

    Attributes:
        program_hash: `Program.hash` of the program whose blocks are named.
        remove: for each block that leaves, in order, the names of its input's and its output's node.
    """

    program_hash: str
    remove: tuple[tuple[str, str], ...]

    def to_json(self) -> str:
        return json.dumps({"program_hash": self.program_hash, "remove": [list(pair) for pair in self.remove]})

    @classmethod
    def from_json(cls, text: str) -> BlockPlan:
        """The plan that `to_json` wrote.

        Raises:
            PassError: the text is no plan.
        """
        try:
            data = json.loads(text)
            return cls(str(data["program_hash"]), tuple((str(start), str(end)) for start, end in data["remove"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PassError("is not a plan of blocks", where="the text", way_on="pass what BlockPlan.to_json wrote") from error

    def __str__(self) -> str:
        return "\n".join(f"{start} ==> {end} leaves" for start, end in self.remove)


@dataclass(frozen=True)
class PruneBlocks(Pass):
    """Remove whole residual blocks, so that later ones read what went into them.

    A block is what repeats along a residual stream: attention and MLP of a transformer's layer together, a convolutional block
    alone. One stays at least.

    Options:
        ratio: the share of all blocks that leaves, rounded to whole ones, halves up.
        macs, parameters, time: in place of `ratio`, the share of one of them that stays at most: as few blocks leave as that takes. Time
            is measured, as of `prune-channels`.
        score: ``influence``, 1 - cos(input, output) (Minitron M25; Men et al. 2024), ``loss``, of the program without the block,
            or ``random``.
        loss: of (outputs, inputs), for ``loss``; None for the cross-entropy with the whole program's argmax.
        latency: as of `prune-channels`.
        plan: what `decide` made for this very program, perhaps edited; nothing is scored then.

    Raises:
        PassError: an option has no meaning; a score is NaN; the plan was made for another program or names no block of it.
        CalibrationError: no usable calibration data.
    """

    name: ClassVar[str] = "prune-blocks"
    promise: ClassVar[Promise] = Lossy(-3.0)
    """Below it outputs have no more to do with those of before than noise of their size."""
    ratio: float = 0.25
    score: str = "influence"
    macs: float = 0.0
    parameters: float = 0.0
    time: float = 0.0
    loss: Loss | None = field(default=None, metadata={GIVEN: True})
    latency: Latency | None = field(default=None, metadata={GIVEN: True})
    plan: BlockPlan | None = field(default=None, metadata={GIVEN: True})

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise PassError(f"ratio={self.ratio:g} leaves no block", where=self.name, way_on="from 0 to below 1, e.g. 0.25")
        if self.score not in _SCORES:
            raise PassError(f"unknown score {self.score!r}", where=self.name, way_on=f"one of {', '.join(_SCORES)}")
        check_budgets({name: getattr(self, name) for name in BUDGETS}, self.name)

    def apply(self, program: Program, context: Context) -> Program:
        plan = self.plan if self.plan is not None else self.decide(program, context)
        pruned = not_slower(without(program, plan), program, self.latency, context)
        report_stale_norms(pruned, program, context)
        return pruned

    def decide(self, program: Program, context: Context) -> BlockPlan:
        """Which blocks leave, without removing them."""
        blocks, asked = residual_blocks(program), any(getattr(self, name) for name in BUDGETS)
        count = min(int(self.ratio * len(blocks) + 0.5), len(blocks) - 1)
        if len(blocks) < 2 or (count < 1 and not asked):
            what = f"{len(blocks)} residual blocks, of which ratio={self.ratio:g} is none" if blocks else "no residual block with weights"
            context.refusals.append(Refused("program", what, "a higher ratio, or prune-channels" if len(blocks) > 1 else "prune-channels"))
            return BlockPlan(program.hash, ())
        scores = _SCORES[self.score](self, program, blocks, context)
        for block in blocks:
            if isnan(scores[block.names]):
                what = f"the {self.score} score of {block} is NaN"
                raise PassError(what, where=self.name, way_on="repair the model and the data, or choose another score")
        ordered = sorted(blocks, key=lambda block: scores[block.names])
        leaving = ordered[: self._fewest(program, ordered, context) if asked else count]
        return BlockPlan(program.hash, tuple(block.names for block in blocks if block in leaving))

    def _fewest(self, program: Program, ordered: list[Block], context: Context) -> int:
        """How many of the first blocks have to leave for the budget.

        Raises:
            PassError: even one alone takes more, or time is not measured.
        """
        name = next(name for name in BUDGETS if getattr(self, name))
        wanted, latency = getattr(self, name), self.latency or context.latency
        if name == "time" and latency is None:
            way_on = "give latency=fx.latency_on(target), or Pipeline.run latency="
            raise PassError(f"time={wanted:g} asks for a measurement", where=self.name, way_on=way_on)

        def share(count: int) -> float:
            smaller = without(program, BlockPlan(program.hash, tuple(block.names for block in ordered[:count])))
            if name == "time" and latency is not None:
                return time_ratio(smaller, program, latency).high
            return float(getattr(smaller.cost(), name) / getattr(program.cost(), name))

        if wanted == 1:
            return 0
        most = len(ordered) - 1
        if (least := share(most)) > wanted:
            raise PassError(f"{name}={wanted:g} cannot be reached: {least:.3f} stay at least", where=self.name, way_on=MORE)
        low = 0
        while most - low > 1:
            middle = (low + most) // 2
            low, most = (low, middle) if share(middle) <= wanted else (middle, most)
        return most

    def _influence(self, program: Program, blocks: list[Block], context: Context) -> Mapping[tuple[str, str], float]:
        observer = BlockInfluence(program, blocks)
        for batch in context.evidence.calibration.batches(program):
            observer.observe(batch)
        return observer.found

    def _loss(self, program: Program, blocks: list[Block], context: Context) -> Mapping[tuple[str, str], float]:
        batches = list(context.evidence.calibration.batches(program))
        found = {}
        for done, block in enumerate(blocks, start=1):
            smaller = without(program, BlockPlan(program.hash, (block.names,)))
            losses = [self._loss_of(program, smaller, batch) for batch in batches]
            found[block.names] = sum(losses) / len(losses)
            if context.progress is not None:
                context.progress("removing blocks", done, len(blocks))
        return found

    def _loss_of(self, program: Program, smaller: Program, batch: tuple[Tensor, ...]) -> float:
        if self.loss is not None:
            return float(self.loss(smaller.run(*batch), batch))
        whole, scores = (one.run(*batch)[0].flatten(0, -2) for one in (program, smaller))
        return float(functional.cross_entropy(scores, whole.argmax(1)))

    def _random(self, program: Program, blocks: list[Block], context: Context) -> Mapping[tuple[str, str], float]:
        drawn = torch.rand(len(blocks), generator=torch.Generator().manual_seed(context.seed)).tolist()
        return dict(zip((block.names for block in blocks), drawn, strict=True))


_Scorer = Callable[[PruneBlocks, Program, list[Block], Context], Mapping[tuple[str, str], float]]
_SCORES: dict[str, _Scorer] = {"influence": PruneBlocks._influence, "loss": PruneBlocks._loss, "random": PruneBlocks._random}


def without(program: Program, plan: BlockPlan) -> Program:
    """The program without the plan's blocks; `program` itself where none leaves.

    Raises:
        PassError: the plan was made for another program, or names what is no block of it.
    """
    if plan.program_hash != program.hash:
        what = f"was made for another program than {program.hash[:12]}"
        raise PassError(what, where=f"plan of {plan.program_hash[:12]}", way_on="make it again")
    blocks = {block.names: block for block in residual_blocks(program)}
    for names in plan.remove:
        if names not in blocks:
            raise PassError(f"{' ==> '.join(names)} is no residual block", where="the plan", way_on="decide() names those that are")
    return remove_blocks(program, map(blocks.__getitem__, plan.remove))
