"""g(x + f(x)) ==> h(x): a block leaves, its weights live on in its neighbours', which learn to do without it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block, rows
from fxpress_ir.errors import PassError
from fxpress_ir.slicing import remove_blocks

from ..contract import Context, Lossy, Pass, Promise, Refused
from .injected import Free, Injected
from .macro_influence import macro_influence
from .probe import probe, tensor_readers, weights
from .reconstruct import reconstruct


@dataclass(frozen=True)
class Left:
    """A block that left, by the names of its input and its output, and its influence as it did."""

    names: tuple[str, str]
    influence: float

    def __str__(self) -> str:
        return f"{self.names[0]} ==> {self.names[1]} left, influence {self.influence:.4g}"


@dataclass(frozen=True)
class FuseBlocks(Pass):
    """Remove blocks one by one and fuse each into its neighbours (FuseGPT, Pang et al. 2024, M347).

    The block leaves without which the end of its stream changes least (`macro_influence`). Every linear layer and convolution
    of the blocks around it, its group, becomes W + B A + (C D) * P, P the weight at the same place in the block that left;
    the factors and the biases learn to give what the group's last block gives in the program as it came in. Then they are
    multiplied out: what is left are plain weights. Blocks can be fused where several of one structure follow each other;
    one stays in each row.

    Options:
        remove: how many blocks leave.
        group: how many blocks in a row are a group, the one that leaves among them.
        steps: of training for each block, one calibration batch each; 0 only removes.
        rate: the first learning rate; it falls to zero along half a cosine.
        rank: of C and D; 0 for no injection.
        lora_rank: of B and A; 0 for none.

    Raises:
        PassError: an option has no meaning; an influence or the error is NaN.
        CalibrationError: no usable calibration data.
    """

    name: ClassVar[str] = "fuse-blocks"
    promise: ClassVar[Promise] = Lossy(-3.0)
    """Below it outputs have no more to do with those of before than noise of their size."""
    remove: int = 1
    group: int = 3
    steps: int = 50
    rate: float = 3e-3
    rank: int = 16
    lora_rank: int = 16

    def __post_init__(self) -> None:
        checks = (
            (self.remove >= 1, f"remove={self.remove}", "1 or more"),
            (self.group >= 2, f"group={self.group} has no neighbour", "2 or more, e.g. 3"),
            (self.steps >= 0 and self.rate > 0, f"steps={self.steps}, rate={self.rate:g}", "steps from 0, rate above 0"),
            (min(self.rank, self.lora_rank) >= 0, f"rank={self.rank}, lora_rank={self.lora_rank}", "0 for none, or more"),
        )
        for holds, what, way_on in checks:
            if not holds:
                raise PassError(what, where=self.name, way_on=way_on)

    def apply(self, program: Program, context: Context) -> Program:
        room = sum(len(row) - 1 for row in rows(program))
        if room < self.remove:
            reason = f"{room} blocks can leave, remove={self.remove}" if room else "no two blocks of one structure follow each other"
            context.refusals.append(Refused("program", reason, f"remove={room}" if room else "prune-blocks"))
        found, goals = program, dict[str, str]()
        for number in range(min(self.remove, room)):
            found = self._one_less(found, program, goals, context, number)
        return found

    def _one_less(self, program: Program, teacher: Program, goals: dict[str, str], context: Context, number: int) -> Program:
        """The program with one block fused into its neighbours.

        Args:
            goals: for nodes behind which blocks left, the teacher's node whose value they should have.
        """
        several = [row for row in rows(program) if len(row) > 1]
        data = context.evidence.calibration
        influence = macro_influence(program, several, data.batches(program))
        leaving = self._least(influence, several)
        context.note(Left(leaving.names, influence[leaving.names]))
        row = next(row for row in several if leaving in row)
        group = _around(row, leaving, self.group)
        goals[leaving.input.name] = goals.get(leaving.output.name, leaving.output.name)
        smaller, end = remove_blocks(program, [leaving]), group[-1].output.name
        end = leaving.input.name if group[-1] is leaving else end
        trained = self._trained(program, leaving, group, context) if self.steps else {}
        if not trained:
            return smaller
        edit = smaller.edit()
        edit.tensors |= reconstruct(
            probe(smaller, [end]),
            probe(teacher, [goals.get(end, end)]),
            trained,
            lambda: data.batches(program),
            self.steps,
            self.rate,
            self._told(context, number),
        )
        return edit.finish()

    def _least(self, influence: Mapping[tuple[str, str], float], several: Sequence[Sequence[Block]]) -> Block:
        blocks = [block for row in several for block in row]
        for block in blocks:
            if isnan(influence[block.names]):
                what = f"the influence of {block} is NaN"
                raise PassError(what, where=self.name, way_on="repair the model and the data")
        return min(blocks, key=lambda block: influence[block.names])

    def _trained(self, program: Program, leaving: Block, group: Sequence[Block], context: Context) -> dict[str, Injected | Free]:
        """The tensors of the neighbours' layers that nothing outside of the group reads."""
        seed = f"{self.name} {context.seed} {leaving}"
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big"))
        inside, users = {node for block in group for node in block.nodes}, tensor_readers(program)
        trained: dict[str, Injected | Free] = {}
        for block in group:
            if block is leaving:
                continue
            for (layer, weight, bias), (_, other, _) in zip(weights(block), weights(leaving), strict=True):
                if weight and not users[weight] <= inside:
                    context.refuse(layer, f"its weight {weight} is read elsewhere, too", "it stays as it is")
                elif weight and other and weight not in trained and (self.rank or self.lora_rank):
                    parts = program.tensors[weight], program.tensors[other]
                    trained[weight] = Injected(*parts, self.rank, self.lora_rank, generator)
                if bias and users[bias] <= inside and bias not in trained:
                    trained[bias] = Free(program.tensors[bias])
        return trained

    def _told(self, context: Context, number: int) -> Callable[[int], None]:
        def done(step: int) -> None:
            if context.progress is not None:
                context.progress("fusing blocks", number * self.steps + step, self.remove * self.steps)

        return done


def _around(row: Sequence[Block], leaving: Block, size: int) -> Sequence[Block]:
    """`size` blocks of a row, as many before the one that leaves as behind it where there are as many."""
    first = min(max(0, row.index(leaving) - (size - 1) // 2), max(0, len(row) - size))
    return row[first : first + size]
