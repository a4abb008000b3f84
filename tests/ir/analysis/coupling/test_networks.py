"""Networks in the manner of well-known ones, every group that can shrink cut at random: masked == sliced."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from coupled import captured, check_sliced
from fxpress_ir.analysis.coupling import coupled_groups

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks"))
from networks import NETWORKS

ATOMS = {
    "inception": [16, 8, 16, 8, 16, 16, 16, 32],
    "densenet": [16, 16, 8, 16, 8, 16, 8, 20],
    "unet": [8, 16, 32, 32, 32, 16, 8, 8],
    "squeeze-excitation": [16, 32, 8, 32, 8, 32, 8],
    "shufflenet": [2, 2, 4, 8, 8, 8, 8],
}
"""How many atoms each group has: in a ShuffleNet channels that were shuffled together leave together."""


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_is_sliced(name: str) -> None:
    images = [torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch)) for batch in (1, 3)]
    program = captured(NETWORKS[name](), images[0])
    groups = coupled_groups(program)
    assert [group.size for group in groups.prunable] == ATOMS[name]
    assert all(group.exact for group in groups.prunable)
    check_sliced(program, [(image,) for image in images])
