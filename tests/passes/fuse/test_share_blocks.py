"""Of blocks that give alike values the first stays: alone, or for all of its cluster, stored once."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from encoder import Encoder
from float_programs import applied, captured, measured, operators, sample
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, ShareBlocks
from projectors import projectors
from torch import nn


@cache
def program() -> Program:
    """Four layers, of which the third hardly does anything."""
    model = Encoder(depth=4)
    for layer in (model.layers[2].out, model.layers[2].down):
        nn.init.normal_(layer.weight, 0, 1e-3)
        nn.init.zeros_(layer.bias)
    return captured(model, 2, 6, 4)


def layers(found: Program) -> set[str]:
    return {name.split(".")[1] for name in found.tensors if name.startswith("layers")}


@pytest.mark.parametrize("similarity", ["cca", "cka"])
def test_the_layer_that_does_least_leaves(similarity: str) -> None:
    found = applied(ShareBlocks(similarity=similarity), program(), measured(program()))
    assert layers(found) == {"0", "1", "3"}
    x = sample(program(), 3)
    torch.testing.assert_close(found.run(*x), program().run(*x), rtol=0, atol=1e-2)
    assert operators(found) == operators(captured(Encoder(depth=3), 2, 6, 4))


def test_of_duplicated_blocks_one_does_what_all_did() -> None:
    duplicated = projectors(4)
    found = ShareBlocks(remove=3).apply(duplicated, measured(duplicated))
    x = sample(duplicated, 5)
    assert torch.equal(found.run(*x)[0], duplicated.run(*x)[0])
    assert len(operators(duplicated)) - len(operators(found)) == 6


def test_equal_weights_are_stored_once_and_no_bit_moves() -> None:
    model = Encoder(depth=4)
    for one, other in ((0, 1), (2, 3)):
        model.layers[other].load_state_dict(model.layers[one].state_dict())
    copied = captured(model, 2, 6, 4)
    found = ShareBlocks(remove=2, fill=True).apply(copied, measured(copied))
    assert layers(found) == {"0", "2"}
    assert operators(found) == operators(copied)
    x = sample(copied, 5)
    assert torch.equal(found.run(*x)[0], copied.run(*x)[0])
    assert found.cost().parameters < 0.6 * copied.cost().parameters
    assert ShareBlocks(remove=2, fill=True).apply(found, measured(found)) is found


def test_a_cluster_computes_with_the_weights_of_its_first() -> None:
    found = ShareBlocks(fill=True).apply(program(), measured(program()))
    assert layers(found) == {"0", "1", "3"}
    edit = program().edit()
    for name in list(edit.tensors):
        if name.startswith("layers.2."):
            edit.tensors[name] = edit.tensors[name.replace("layers.2.", "layers.1.")]
    x = sample(program(), 3)
    assert torch.equal(found.run(*x)[0], edit.finish().run(*x)[0])


def test_too_few_blocks_are_a_refusal() -> None:
    context = measured(program())
    assert layers(ShareBlocks(remove=7).apply(program(), context)) == {"0"}
    assert [str(refused) for refused in context.refusals] == ["program: 3 blocks can leave, remove=7; remove=3"]
    single, context = captured(nn.Linear(3, 3), 2, 3), Context()
    assert ShareBlocks().apply(single, context) is single
    assert "no two blocks of one structure follow each other; prune-blocks" in str(context.refusals[0])


@pytest.mark.parametrize(
    ("options", "what"), [({"remove": 0}, "remove=0; 1 or more"), ({"similarity": "x"}, "similarity='x'; one of cca, cka")]
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(PassError, match=f"share-blocks: {what}"):
        ShareBlocks(**options)  # type: ignore[arg-type]


def test_values_that_are_no_numbers_are_refused() -> None:
    edit = program().edit()
    edit.tensors["stem.weight"] = torch.full_like(program().tensors["stem.weight"], torch.nan)
    with pytest.raises(PassError, match=r"share-blocks: a similarity of blocks is NaN; repair the model"):
        ShareBlocks(similarity="cka").apply(edit.finish(), measured(program()))
