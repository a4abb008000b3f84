"""Features of a stream leave embeddings, norms and every layer at once."""

from __future__ import annotations

import pytest
from encoder import encoder_program
from float_programs import measured
from fxpress_passes import Context, PruneWidth


@pytest.mark.parametrize("score", ["magnitude", "activation", "taylor", "fisher", "trajectory", "random"])
def test_before_and_after(score: str) -> None:
    program = encoder_program()
    found = PruneWidth(ratio=0.5, align=8, score=score).apply(program, measured(program))
    assert {name: tensor.shape for name, tensor in found.tensors.items() if not name.startswith("layers.1")} == {
        "stem.weight": (8, 4), "stem.bias": (8,),
        "layers.0.norm1.weight": (8,), "layers.0.norm1.bias": (8,), "layers.0.norm2.weight": (8,), "layers.0.norm2.bias": (8,),
        **{f"layers.0.{name}.weight": (16, 8) for name in ("query", "key", "value")},
        **{f"layers.0.{name}.bias": (16,) for name in ("query", "key", "value")},
        "layers.0.out.weight": (8, 16), "layers.0.out.bias": (8,),
        "layers.0.up.weight": (24, 8), "layers.0.up.bias": (24,), "layers.0.down.weight": (8, 24), "layers.0.down.bias": (8,),
        "norm.weight": (8,), "norm.bias": (8,), "head.weight": (5, 8), "head.bias": (5,),
    }  # fmt: skip


def test_the_features_that_norms_let_through_least_leave() -> None:
    program = encoder_program()
    edit = program.edit()
    for name in ("layers.0.norm1", "layers.0.norm2", "layers.1.norm1", "layers.1.norm2", "norm"):
        edit.tensors[f"{name}.weight"] = program.tensors[f"{name}.weight"].clone()
        edit.tensors[f"{name}.weight"][3:7] = 0.01
    faint = edit.finish()
    plan = PruneWidth(score="activation").decide(faint, measured(faint))
    assert plan.keep == {"stem": (0, 1, 2, *range(7, 16))}


def test_a_share_that_is_nothing_leaves_it_alone() -> None:
    program = encoder_program()
    assert PruneWidth(ratio=0.01).apply(program, Context()) is program
