"""Blocks leave by the names that the whole program gives them, however its layers shrink beside them."""

from __future__ import annotations

import torch
from fxpress.joint import JointPlan, Space, prepared
from fxpress.joint.space import LEAVES, group_unit
from fxpress_ir import capture
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from joint_net import Block
from torch import nn

BATCHES = [(torch.randn(4, 16, 6, 6, generator=torch.Generator().manual_seed(seed)),) for seed in range(2)]


def four() -> Space:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), Block(16), Block(16), Block(16), Block(16), nn.Conv2d(16, 4, 1)).eval()
    calibration = Calibration(BATCHES)
    return Space.of(prepared(capture(net, BATCHES[0]), calibration), Context(Evidence(calibration)), ("channels", "blocks"), align=4)


def test_a_block_leaves_beside_blocks_of_other_sizes() -> None:
    space = four()
    assert len(space.blocks) == 3  # the first one stays
    groups = [name for name in space.atoms if name.endswith(".first")]
    last = list(space.blocks)[-1]
    chosen = {group_unit(groups[0]): "keep 0.5", group_unit(groups[2]): "keep 0.5", last: LEAVES}
    plan, cut = space.built(chosen)
    assert plan.remove == (space.blocks[last],)
    whole = space.built({last: LEAVES})[1]
    assert len(list(cut.graph.nodes)) == len(list(whole.graph.nodes))
    again = JointPlan.from_json(plan.to_json()).cut(space.program, space.context)
    assert torch.equal(again.run(*BATCHES[0])[0], cut.run(*BATCHES[0])[0])
