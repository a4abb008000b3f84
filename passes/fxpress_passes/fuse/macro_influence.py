"""1 - cos(h, h_i): how far the end of a stream is from where it is without block i, averaged over its vectors (FuseGPT, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block
from torch import Tensor
from torch.nn import functional

from .probe import features, probe, vectors


def macro_influence(
    program: Program, rows: Sequence[Sequence[Block]], batches: Iterable[tuple[Tensor, ...]]
) -> Mapping[tuple[str, str], float]:
    """By the names of a block's input and output; 0 for a block without which the stream ends the same but for a length.

    Runs the program once more for each block; memory holds one run's live values.

    Args:
        rows: of blocks (`fxpress_ir.analysis.blocks.rows`); the stream of each ends where its last block does.
    """
    whole = {block.names: probe(program, [row[-1].output.name]) for row in rows for block in row[:1]}
    parts = {block.names: probe(program, [row[-1].output.name], without=block) for row in rows for block in row}
    sums, count = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0)
    with torch.no_grad():
        for batch in batches:
            for row in rows:
                (end,) = whole[row[0].names](*batch)
                kept = vectors(end, features(row[0]))
                for block in row:
                    (other,) = parts[block.names](*batch)
                    far = 1 - functional.cosine_similarity(kept, vectors(other, features(block)), dim=1)
                    sums[block.names] += float(far.sum())
                    count[block.names] += len(far)
    return {names: sums[names] / count[names] for names in sums}
