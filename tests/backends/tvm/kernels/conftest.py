"""Kernels of AMX tiles run in C on any CPU with the vectors that stand around them, and in tiles where the CPU has those too."""

from __future__ import annotations

import pytest
from amx_cases import EMULATED
from fxpress_backends.contract import Target
from fxpress_backends.tvm import cpu

LEVELS = [level for level in cpu.levels(cpu.host_features()) if cpu.AMX in level.features and level.runs_here]


@pytest.fixture(params=[EMULATED, *LEVELS], ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    """In place of the CPU's own targets."""
    chosen: Target = request.param
    if not chosen.runs_here:
        pytest.skip("this CPU has no AVX512-VBMI")
    return chosen
