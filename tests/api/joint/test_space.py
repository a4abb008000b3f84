"""prepared program ==> units and choices; choices ==> a plan and the program cut by it."""

from __future__ import annotations

import pytest
import torch
from fxpress.joint import Space, prepared
from fxpress.joint.space import LEAVES, group_unit, parts
from fxpress_ir import capture, verify
from fxpress_ir.errors import FxpressError
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.quantize.layer_choices import layers_of
from joint_net import batches, context, original, space
from torch import Tensor, nn


def test_units_are_layers_groups_and_blocks() -> None:
    units = space().units
    assert [name for name in units if name in space().layers] == [layer.names[0] for layer in layers_of(original())]
    assert units["conv2d_1"] == ("w8", "w4", "r0.75 w8", "r0.75 w4", "r0.5 w8", "r0.5 w4", "r0.25 w8", "r0.25 w4")
    assert units[group_unit("blocks.0.first")] == ("keep 1", "keep 0.75", "keep 0.5", "keep 0.25")
    assert len([name for name in units if name.startswith("block ")]) == 2  # one stays


def test_a_family_that_is_not_asked_for_gives_no_choice() -> None:
    assert set(space("bits").units["conv2d_1"]) == {"w8", "w4"}
    assert set(space("ranks").units["conv2d_1"]) == {"w8", "r0.75 w8", "r0.5 w8", "r0.25 w8"}
    assert all(not name.startswith(("group", "block")) for name in space("bits", "ranks").units)
    assert space("blocks").units["conv2d_1"] == ("w8",)


def test_the_first_choices_change_nothing_but_bits() -> None:
    plan, cut = space().built({})
    assert cut is original()
    assert not plan.changes_structure
    assert set(plan.bits.values()) == {"w8a8"}


def test_all_families_at_once_give_one_verified_program() -> None:
    own = space()
    block = next(iter(own.blocks))
    inside = {name for name in own.layers if name in ("conv2d_3", "conv2d_4")}
    chosen = dict.fromkeys(own.ranked - inside, "r0.5 w4") | {group_unit("blocks.2.first"): "keep 0.5", block: LEAVES}
    plan, cut = own.built(chosen)
    verify(cut)
    assert len(plan.keep["blocks.2.first"]) == 16
    assert plan.remove == (own.blocks[block],)
    assert len(layers_of(cut)) == 2 * len(own.ranked - inside) + len(set(own.layers) - own.ranked)
    assert set(own.units_in(cut).values()) == set(own.layers) - inside
    assert {plan.bits[name] for name, unit in own.units_in(cut).items() if unit in own.ranked} == {"w4a8"}
    (x,) = batches()[0]
    assert cut.run(x)[0].shape == original().run(x)[0].shape
    assert cut.run(x[:3])[0].shape == (3, 5)


def test_a_share_of_rank_is_that_share_of_the_parameters() -> None:
    own = space()
    rank = own.rank((256, 128), 0.5)
    assert rank % own.align == 0
    assert abs(rank * (256 + 128) / (256 * 128) - 0.5) < 0.05
    assert own.rank((4, 4), 0.25) == 0 or own.rank((4, 4), 0.25) * 8 < 16


class Refusing(nn.Module):
    """A depthwise convolution, a layer too small for ranks, a group too small to be cut, and what is given out."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.each = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16)
        self.few, self.head = nn.Conv2d(16, 1, 1), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.few(self.each(self.wide(x)).relu()).relu().flatten(1))
        return result


def test_what_cannot_be_chosen_says_why() -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, 10, 10),)
    data = Calibration([inputs])
    own = Space.of(prepared(capture(Refusing().eval(), inputs), data), Context(Evidence(data)), align=16)
    found = {(refusal.family, refusal.name): refusal.reason for refusal in own.refusals}
    assert found["ranks", "conv2d_1"].startswith("its convolution is depthwise")
    assert found["ranks", "conv2d_2"] == "no rank makes it smaller"
    assert found["channels", "head"] == "output 0 carries it"
    assert found["channels", "wide"] == "its 16 atoms are no more than one block of align=16"
    assert own.refusals == tuple(sorted(set(own.refusals)))
    assert not own.ranked & {name for family, name in found if family == "ranks"}
    assert not set(own.atoms) & {name for family, name in found if family == "channels"}
    assert own.only(("bits", "ranks")).refusals == tuple(refusal for refusal in own.refusals if refusal.family == "ranks")
    assert own.only(("bits",)).refusals == ()


def test_parts_of_a_choice() -> None:
    assert parts("w4") == (1.0, "w4")
    assert parts("r0.25 w8") == (0.25, "w8")


@pytest.mark.parametrize("families", [(), ("bits", "bits"), ("bits", "sparsity")])
def test_other_families_are_refused(families: tuple[str, ...]) -> None:
    with pytest.raises(FxpressError, match="families"):
        Space.of(original(), context(), families)


def test_a_program_without_weights_is_refused() -> None:
    with pytest.raises(FxpressError, match="no layer with weights"):
        Space.of(capture(torch.nn.ReLU(), (torch.randn(1, 3),)), context())
