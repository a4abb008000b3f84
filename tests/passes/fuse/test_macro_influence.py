"""1 - cos between the ends of a stream with and without a block; 0 for duplicated blocks of which one does what all do."""

from __future__ import annotations

import torch
from encoder import Encoder
from float_programs import captured, sample
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import rows
from fxpress_ir.slicing import remove_blocks
from fxpress_passes.fuse.macro_influence import macro_influence
from fxpress_passes.fuse.probe import probe
from projectors import projectors
from torch.nn import functional


def influence(program: Program) -> list[float]:
    found = macro_influence(program, rows(program), [sample(program, 4, seed) for seed in range(2)])
    return [found[block.names] for row in rows(program) for block in row]


def test_it_is_one_minus_the_cosine_at_the_end() -> None:
    program = captured(Encoder(depth=3), 2, 6, 4)
    (row,) = rows(program)
    end, far = row[-1].output.name, []
    smaller = remove_blocks(program, [row[1]])
    for seed in range(2):
        x = sample(program, 4, seed)
        far.append(1 - functional.cosine_similarity(probe(program, [end])(*x)[0], probe(smaller, [end])(*x)[0], dim=-1))
    torch.testing.assert_close(influence(program)[1], float(torch.cat(far).mean()), rtol=1e-4, atol=0)


def test_duplicated_blocks_have_none() -> None:
    assert max(map(abs, influence(projectors(4)))) < 1e-12
    assert min(influence(captured(Encoder(depth=3), 2, 6, 4))) > 1e-3
