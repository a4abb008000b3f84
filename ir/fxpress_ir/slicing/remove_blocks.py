"""x + f(x) ==> x, for the blocks that leave."""

from __future__ import annotations

from collections.abc import Iterable

from ..analysis.blocks import Block
from ..program import Program


def remove_blocks(program: Program, leaving: Iterable[Block]) -> Program:
    """The program without these of its `residual_blocks`, so that what read a block's output reads its input; itself where none leaves."""
    blocks = list(leaving)
    if not blocks:
        return program
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    edit = program.edit()
    for block in sorted(blocks, key=lambda block: order[block.output], reverse=True):  # the input of a later one may be another's output
        edit.replace(edit.here(block.output), edit.here(block.input))
    return edit.finish()
