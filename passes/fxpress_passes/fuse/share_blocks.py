"""blocks that give alike values ==> one of each cluster, which stands alone or, stored once, in the place of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block, rows
from fxpress_ir.digest import digest
from fxpress_ir.errors import PassError
from fxpress_ir.slicing import remove_blocks
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..contract import Context, Lossy, Pass, Promise, Refused
from .similarity import SIMILARITIES, contiguous_clusters, output_similarity


@dataclass(frozen=True)
class ShareBlocks(Pass):
    """Cluster neighbouring blocks by how alike the values are that they give, and keep the first of each cluster (CRaSh, M170).

    What the others of a cluster give is like what the first gave: they change least. Blocks can be clustered where several of
    one structure follow each other. Nothing is trained.

    Options:
        remove: how many blocks leave, or with `fill` give up their weights.
        fill: the blocks stay, and all of a cluster compute with the weights of its first, which are stored once; blocks of
            equal weights are clustered before others, which changes no bit.
        similarity: ``cka``, linear CKA (Zhang et al. 2023), or ``cca``, the mean of squared canonical correlations, to which
            directions of small variance tell as much. Of trained decoders the first hardly sees what early blocks do.

    Raises:
        PassError: an option has no meaning; a similarity is NaN.
        CalibrationError: no usable calibration data, or too few vectors for ``cca``.
    """

    name: ClassVar[str] = "share-blocks"
    promise: ClassVar[Promise] = Lossy(-3.0)
    """Below it outputs have no more to do with those of before than noise of their size."""
    remove: int = 1
    fill: bool = False
    similarity: str = "cca"

    def __post_init__(self) -> None:
        if self.remove < 1:
            raise PassError(f"remove={self.remove}", where=self.name, way_on="1 or more")
        if self.similarity not in SIMILARITIES:
            raise PassError(f"similarity={self.similarity!r}", where=self.name, way_on=f"one of {', '.join(SIMILARITIES)}")

    def apply(self, program: Program, context: Context) -> Program:
        several = [row for row in rows(program) if len(row) > 1]
        room = sum(len(row) - 1 for row in several)
        if room < self.remove:
            reason = f"{room} blocks can leave, remove={self.remove}" if room else "no two blocks of one structure follow each other"
            context.refusals.append(Refused("program", reason, f"remove={room}" if room else "prune-blocks"))
        if not room:
            return program
        similarities = [self._similarity(program, row, context) for row in several]
        clusters = contiguous_clusters(similarities, min(self.remove, room))
        others = {row[place]: row[run.start] for row, runs in zip(several, clusters, strict=True) for run in runs for place in run[1:]}
        return _filled(program, others) if self.fill else remove_blocks(program, others)

    def _similarity(self, program: Program, row: Sequence[Block], context: Context) -> Tensor:
        generator = torch.Generator().manual_seed(context.seed)
        found = output_similarity(self.similarity, program, row, context.evidence.calibration, generator)
        if bool(found.isnan().any()):
            raise PassError("a similarity of blocks is NaN", where=self.name, way_on="repair the model and the data")
        if self.fill:
            weights = [[digest(program.tensors[str(node.target)]) for node in block.constants] for block in row]
            equal = torch.tensor([[one == other for other in weights] for one in weights])
            found = found.where(~equal, 1.0)
        return found


def _filled(program: Program, others: Mapping[Block, Block]) -> Program:
    """Each block reads the tensors of the one before it that stands for it; the same program where they are those already."""
    if all(block.constants == one.constants for block, one in others.items()):
        return program
    edit = program.edit()
    for block, one in others.items():
        for node, like in zip(block.nodes, one.nodes, strict=True):
            tensors = {edit.here(mine): edit.here(its) for mine, its in zip(_tensors(node), _tensors(like), strict=True)}
            _read(edit.here(node), tensors)
    return edit.finish()


def _read(node: fx.Node, tensors: Mapping[fx.Node, fx.Node]) -> None:
    """All at once: the tensor that stands for one may be another that the node reads."""
    node.args, node.kwargs = map_arg((node.args, node.kwargs), lambda used: tensors.get(used, used))


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [used for used in node.all_input_nodes if used.op == "get_attr"]
