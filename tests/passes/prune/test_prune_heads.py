"""Whole heads leave, or with grouped queries a key's head with its queries."""

from __future__ import annotations

import pytest
import torch
from encoder import encoder_program
from float_programs import ResidualNet, captured, measured, sample
from fxpress_ir.slicing import mask_atoms
from fxpress_passes import Context, PruneHeads

SCORES = ("magnitude", "activation", "taylor", "fisher", "trajectory", "random")


@pytest.mark.parametrize("score", SCORES)
def test_the_head_that_gives_nothing_leaves(score: str) -> None:
    program = encoder_program()
    edit = program.edit()
    for name in ("query", "key", "value"):
        for part in ("weight", "bias"):
            tensor = f"layers.0.{name}.{part}"
            edit.tensors[tensor] = program.tensors[tensor].index_fill(0, torch.arange(4, 8), 0.0)
    silent = edit.finish()
    context = measured(silent)
    plan = PruneHeads(score=score).decide(silent, context)
    assert {name: len(kept) for name, kept in plan.keep.items()} == {"layers.0.query": 3, "layers.1.query": 3}
    if score != "random":
        assert plan.keep["layers.0.query"] == (0, 2, 3)
    found = PruneHeads(score=score).apply(silent, context)
    assert [found.tensors[f"layers.0.{name}.weight"].shape for name in ("query", "out")] == [(12, 16), (16, 12)]


def test_masked_is_sliced() -> None:
    program = encoder_program()
    plan = PruneHeads(ratio=0.5).decide(program, Context())
    sliced, masked = PruneHeads(plan=plan).apply(program, Context()), mask_atoms(program, plan)
    for batch in (1, 3):
        x = sample(program, batch)
        torch.testing.assert_close(sliced.run(*x), masked.run(*x), rtol=0, atol=1e-6)


def test_a_network_without_attention_is_left_alone() -> None:
    program = captured(ResidualNet(), 1, 3, 8, 8)
    context = Context()
    assert PruneHeads().apply(program, context) is program
    assert [str(refused) for refused in context.refusals] == []
