"""Products of computed matrices, attention, depthwise convolutions and tables in the vectors of each x86-64 level: random shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from computed_cases import drawn, runs, together
from fxpress_backends.artifact import lower
from fxpress_backends.contract import Target
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Program
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def check(level: Target, seed: int, loaded: Callable[[Program, Target, Path], Any]) -> None:
    """One program of a case of each kind gives the reference's bits, in vectors where the types allow them."""
    cases = drawn(seed)
    program = together(cases)
    kernels = [group.kernel for group in plan(program, level).groups]
    assert "lut_permute" in kernels
    assert any(kernel.startswith("conv2d_depthwise") for kernel in kernels)
    with TemporaryDirectory() as folder:
        runner = loaded(program, level, Path(folder))
        arbiter = lower(program, "reference", out=Path(folder) / "reference")
        for inputs in runs(cases):
            arrays = [x.numpy() for x in inputs]
            for number, (result, wanted) in enumerate(zip(runner.run(arrays), arbiter.run(*arrays), strict=True)):
                np.testing.assert_array_equal(result, wanted, err_msg=f"seed {seed}: {cases[number].inputs}")


LEVELS = [level for level in cpu.levels(cpu.host_features())[:2] if level.runs_here]
of_each_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)


@of_each_level
def test_bits(level: Target, loaded: Callable[[Program, Target, Path], Any]) -> None:
    check(level, 1, loaded)


@of_each_level
@pytest.mark.slow
@given(seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_bits_of_many(level: Target, loaded: Callable[[Program, Target, Path], Any], seed: int) -> None:
    check(level, seed, loaded)
