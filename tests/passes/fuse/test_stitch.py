"""Head of one, tail of another: the least-squares map between them, shapes checked, folded where only layers stand beside it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from encoder import Encoder
from float_programs import captured, operators, sample
from fxpress_ir import Program, verify
from fxpress_ir.errors import PassError
from fxpress_passes import FuseLinear
from fxpress_passes.contract import Context
from fxpress_passes.fuse.stitch import stitch
from torch import Tensor, nn

Batches = list[tuple[Tensor, ...]]


@cache
def narrow() -> Program:
    return captured(Encoder(depth=3), 2, 6, 4)


@cache
def wide() -> Program:
    return captured(Encoder(width=24, depth=4, seed=1), 2, 6, 4)


def data(program: Program) -> Batches:
    return [sample(program, 16, seed) for seed in range(4)]


def far(found: Program, wanted: Program) -> float:
    x = sample(wanted, 32, 9)
    return float((found.run(*x)[0] - wanted.run(*x)[0]).square().mean())


def test_the_map_is_the_least_squares_fit() -> None:
    found = stitch(narrow(), wide(), (1, 2), data(narrow()))
    verify(found)
    assert found.inputs == narrow().inputs
    assert found.history == ("stitch{at=[1, 2]}",)
    assert operators(found).count("aten.scaled_dot_product_attention") == 1 + 2
    assert tuple(found.tensors["stitch.weight"].shape) == (24, 16)
    edit = found.edit()
    edit.tensors["stitch.weight"] = found.tensors["stitch.weight"] + 0.05 * torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    assert far(found, wide()) < 0.7 * far(edit.finish(), wide())
    for batch in (1, 3):
        assert found.run(*sample(found, batch))[0].shape == (batch, 5)


def test_where_both_are_one_program_it_is_that_program() -> None:
    found = stitch(narrow(), narrow(), (1, 1), data(narrow()))
    assert far(found, narrow()) < 1e-9
    assert found.tensors.keys() == narrow().tensors.keys() | {"stitch.weight", "stitch.bias"}


def test_between_layers_alone_it_folds_away() -> None:
    torch.manual_seed(0)
    a, b = (captured(nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3)), 2, 4) for width in (8, 6))
    found = stitch(a, b, ("linear", "linear"), data(a))
    assert operators(found) == ["aten.linear"] * 3
    folded = FuseLinear().apply(found, Context())
    assert operators(folded) == ["aten.linear"]
    assert far(folded, b) < 1e-9


def test_images_are_joined_by_a_convolution() -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3)) for width in (5, 4)]
    a, b = (captured(net, 2, 3, 8, 8) for net in nets)
    found = stitch(a, b, ("relu", "relu"), data(a))
    verify(found)
    assert tuple(found.tensors["stitch.weight"].shape) == (4, 5, 1, 1)
    assert operators(found) == ["aten.conv2d", "aten.relu", "aten.conv2d", "aten.conv2d"]


@pytest.mark.parametrize(
    ("at", "what"),
    [
        ((9, 1), "at=9 of 3 residual blocks; 0 to 3, or a node's name"),
        (("nothing", 1), "at='nothing' is no value of vectors"),
        (("mean", 0), r"mean is \['batch', 16\], linear \['batch', 6, 24\]; choose places"),
    ],
)
def test_places_that_do_not_meet_are_refused(at: tuple[int | str, int | str], what: str) -> None:
    with pytest.raises(PassError, match=f"stitch: {what}"):
        stitch(narrow(), wide(), at, data(narrow()))


def test_programs_of_other_inputs_or_stages_are_refused() -> None:
    other = captured(nn.Linear(4, 3), 2, 4)
    with pytest.raises(PassError, match=r"stitch: one takes .*, the other .*; capture both with inputs"):
        stitch(narrow(), other, (1, "linear"), data(narrow()))
    edit = other.edit()
    with pytest.raises(PassError, match="stitch: a program is simulated; stitch float programs"):
        stitch(edit.finish(stage="simulated"), other, ("linear", "linear"), data(other))
    with pytest.raises(PassError, match="stitch: at=0 of 0 residual blocks; name nodes"):
        stitch(other, other, (0, 0), data(other))
