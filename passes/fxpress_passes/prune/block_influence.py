"""1 - cos(x, y), x what a block reads and y what it gives, a vector of features at each place, averaged over calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block
from fxpress_ir.analysis.coupling import coupled_groups
from torch import Tensor, fx
from torch.nn import functional

from ..evidence.calibration import Batch


class BlockInfluence(fx.Interpreter):
    """Runs a program batch by batch and adds up; memory holds the sums, the blocks' inputs and one batch's live values."""

    def __init__(self, program: Program, blocks: Sequence[Block]) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self._ends = {block.output.name: (block, _features(block.input, program)) for block in blocks}
        self._inputs = {block.input.name for block in blocks}
        self._kept: dict[str, Tensor] = {}
        self._sums = {block.names: (0.0, 0) for block in blocks}

    def observe(self, batch: Batch) -> None:
        """Fold one batch in."""
        with torch.no_grad():
            self.run(*batch)
        self._kept = {}

    @property
    def found(self) -> Mapping[tuple[str, str], float]:
        """By the names of a block's input and output; 0 where it changes nothing but a length."""
        return {names: total / count for names, (total, count) in self._sums.items()}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._ends:
            block, dim = self._ends[n.name]
            far = 1 - functional.cosine_similarity(self._kept[block.input.name].double(), result.double(), dim=dim)
            total, count = self._sums[block.names]
            self._sums[block.names] = total + float(far.sum()), count + far.numel()
        if n.name in self._inputs:
            self._kept[n.name] = result
        return result


def _features(node: fx.Node, program: Program) -> int:
    """The dimension whose entries weights address; the last where none is known."""
    labelled = [dim for dim, labels in enumerate(coupled_groups(program).dimensions(node)) if labels is not None]
    return labelled[-1] if labelled else -1
