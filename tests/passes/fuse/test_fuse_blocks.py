"""A block leaves and its neighbours make up for it: plain weights in the end, its nodes less, nearer than without training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from encoder import Encoder
from float_programs import ResidualNet, applied, captured, measured, operators, sample
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import residual_blocks
from fxpress_ir.errors import PassError
from fxpress_ir.slicing import remove_blocks
from fxpress_passes import Context, FuseBlocks
from torch import nn


@cache
def program() -> Program:
    """Four layers."""
    return captured(Encoder(depth=4), 2, 6, 4)


def far(found: Program) -> float:
    x = sample(program(), 32, 9)
    return float((found.run(*x)[0] - program().run(*x)[0]).square().mean())


def plain(count: int) -> Program:
    return FuseBlocks(remove=count, steps=0).apply(program(), measured(program()))


def test_two_blocks_leave_and_the_others_learn_to_do_without() -> None:
    context = measured(program())
    found = applied(FuseBlocks(remove=2), program(), context)
    assert operators(found) == operators(captured(Encoder(depth=2), 2, 6, 4))
    assert found.cost() == captured(Encoder(depth=2), 2, 6, 4).cost()
    assert far(found) < 0.5 * far(plain(2))
    assert [str(note).endswith(tuple("0123456789")) for note in context.notes] == [True, True]


def test_without_steps_a_block_only_leaves() -> None:
    context = measured(program())
    found = FuseBlocks(steps=0).apply(program(), context)
    blocks = {block.names: block for block in residual_blocks(program())}
    (note,) = context.notes
    assert str(note).split(" left, influence ")[0] in map(str, blocks.values())
    assert found.hash == remove_blocks(program(), [blocks[note.names]]).hash  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"rank": 0}, {"lora_rank": 0}, {"group": 2}])
def test_either_half_helps(options: dict[str, int]) -> None:
    assert far(FuseBlocks(**options).apply(program(), measured(program()))) < 0.9 * far(plain(1))  # type: ignore[arg-type]


def test_only_the_group_moves_and_the_seed_decides() -> None:
    found = FuseBlocks(steps=2, group=2).apply(program(), measured(program()))
    moved = {name.split(".")[1] for name, tensor in found.tensors.items() if tensor is not program().tensors[name]}
    assert len(moved) == 1
    assert FuseBlocks(steps=2, group=2).apply(program(), measured(program())).hash == found.hash
    other = measured(program())
    other.seed = 1
    assert FuseBlocks(steps=2, group=2).apply(program(), other).hash != found.hash


def test_blocks_of_convolutions_fuse() -> None:
    class Twice(ResidualNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.features(x)
            for _ in range(2):
                z = torch.relu(self.left_norm(self.left(y)))
                y = torch.relu(self.right_norm(self.right(z)) + y)
            return y

    images = captured(Twice(), 1, 3, 8, 8)
    context = measured(images)
    found = FuseBlocks(steps=2).apply(images, context)
    assert len(operators(images)) - len(operators(found)) == len(residual_blocks(images)[0].nodes)
    assert not context.refusals, "the three blocks share their weights, all of them in the group"


def test_a_weight_that_is_read_elsewhere_stays() -> None:
    class Shared(Encoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers[0].query(self.norm(self.layers(self.stem(x)))).mean(1))  # type: ignore[no-any-return, operator]

    shared = captured(Shared(depth=2), 2, 6, 4)
    context = measured(shared)
    found = FuseBlocks(steps=2, group=2).apply(shared, context)
    (note,) = context.notes
    if "layers.0.key.weight" in found.tensors:
        assert found.tensors["layers.0.query.weight"] is shared.tensors["layers.0.query.weight"]
        assert "layers.0.query.weight is read elsewhere" in str(context.refusals[0])
    else:
        pytest.fail(f"the net is there to keep its first block, but {note}")


def test_too_few_blocks_are_a_refusal() -> None:
    context = measured(program())
    found = FuseBlocks(remove=9, steps=0).apply(program(), context)
    assert operators(found) == operators(captured(Encoder(depth=1), 2, 6, 4))
    assert [str(refused) for refused in context.refusals] == ["program: 3 blocks can leave, remove=9; remove=3"]
    single, context = captured(nn.Linear(3, 3), 2, 3), Context()
    assert FuseBlocks().apply(single, context) is single
    assert "no two blocks of one structure follow each other; prune-blocks" in str(context.refusals[0])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"remove": 0}, "remove=0; 1 or more"),
        ({"group": 1}, "group=1 has no neighbour; 2 or more"),
        ({"rate": 0.0}, "steps=50, rate=0; steps from 0, rate above 0"),
        ({"rank": -1}, "rank=-1, lora_rank=16; 0 for none"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, float], what: str) -> None:
    with pytest.raises(PassError, match=f"fuse-blocks: {what}"):
        FuseBlocks(**options)  # type: ignore[arg-type]


@pytest.fixture
def broken() -> Callable[[], Program]:
    def made() -> Program:
        edit = program().edit()
        edit.tensors["stem.weight"] = torch.full_like(program().tensors["stem.weight"], torch.nan)
        return edit.finish()

    return made


def test_influences_that_are_no_numbers_are_refused(broken: Callable[[], Program]) -> None:
    with pytest.raises(PassError, match=r"fuse-blocks: the influence of .* is NaN; repair the model"):
        FuseBlocks().apply(broken(), measured(program()))
