"""What the TVM tests share: programs of many small graphs side by side (one build for all), and the comparison of every bit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Runner, Target
from fxpress_backends.tvm import TVM, cpu
from fxpress_ir import Edit, Program, capture, verify
from torch import Tensor, fx, nn

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3] / "benchmarks")]

Body = Callable[[Edit, fx.Node], fx.Node]
Case = tuple[Sequence[int], torch.dtype, Body]
TARGETS = {target.name: target for target in TVM.targets()}


class _Parallel(nn.Module):
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x + x for x in inputs)


def _side_by_side(cases: Sequence[Case]) -> Program:
    """One input (its shape without the batch) and one output for each case."""
    examples = tuple(torch.zeros(1, *shape, dtype=dtype) for shape, dtype, _ in cases)
    batch = torch.export.Dim("batch")
    program = capture(_Parallel(), examples, dynamic_shapes={"inputs": tuple({0: batch} for _ in cases)})
    edit = program.edit()
    for x, output, (_, _, body) in zip(program.placeholders(), program.outputs(), cases, strict=True):
        here, old = edit.here(x), edit.here(output)
        with edit.graph.inserting_before(old):
            new = body(edit, here)
        edit.replace(old, new)
    return edit.finish(stage="integer")


def _fixed(example: Tensor, body: Body) -> Program:
    """One input of exactly the example's shape, one output."""
    program = capture(_Parallel(), (example,))
    edit = program.edit()
    x, old = edit.here(program.placeholders()[0]), edit.here(program.outputs()[0])
    with edit.graph.inserting_before(old):
        new = body(edit, x)
    edit.replace(old, new)
    return edit.finish(stage="integer")


def _extreme(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    anything = torch.randint(limits.min, limits.max + 1, tuple(shape), generator=generator)
    choice = torch.randint(0, 3, tuple(shape), generator=generator)
    return torch.where(choice == 0, limits.min, torch.where(choice == 1, limits.max, anything)).to(dtype)


def _loaded(program: Program, target: Target, folder: Path) -> Runner:
    verify(program)
    assert TVM.legalize(program, target) == ()
    details = TVM.lower(program, target, folder)
    return TVM.load(folder, {"target": target.name, "details": details}, {})


def _compare(runner: Runner, program: Program, inputs: Sequence[Tensor]) -> None:
    results, expected = runner.run([x.numpy() for x in inputs]), program.run(*inputs)
    assert len(results) == len(expected)
    for number, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        assert result.dtype == wanted.numpy().dtype
        np.testing.assert_array_equal(result, wanted.numpy(), err_msg=f"output {number}")


@pytest.fixture(scope="session")
def targets() -> Mapping[str, Target]:
    return TARGETS


LOWER = {target.name for target in cpu.levels(cpu.host_features())}
"""Their kernels are among those of ``tvm:native``, or wait for a CPU that has them."""
TESTED = [target for name, target in TARGETS.items() if target.runs_here and name not in LOWER]


@pytest.fixture(params=TESTED, ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    chosen: Target = request.param
    return chosen


@pytest.fixture(scope="session")
def side_by_side() -> Callable[[Sequence[Case]], Program]:
    return _side_by_side


@pytest.fixture(scope="session")
def fixed() -> Callable[[Tensor, Body], Program]:
    """``fixed(example, body)``: a program without a dynamic dimension."""
    return _fixed


@pytest.fixture(scope="session")
def loaded() -> Callable[[Program, Target, Path], Runner]:
    """``loaded(program, target, folder)``: verified, legal, lowered and opened."""
    return _loaded


@pytest.fixture
def same_bits(target: Target, tmp_path: Path) -> Callable[..., None]:
    """``same_bits(program, inputs, ...)``: one build gives the program's bits on each tuple of inputs."""

    def check(program: Program, *batches: Sequence[Tensor]) -> None:
        runner = _loaded(program, target, tmp_path)
        for inputs in batches:
            _compare(runner, program, inputs)

    return check


@pytest.fixture
def same_on_extremes(same_bits: Callable[..., None]) -> Callable[..., None]:
    """``same_on_extremes(cases, batches=...)``: the cases side by side, on extreme and on constant inputs."""

    def check(cases: Sequence[Case], batches: Sequence[int] = (1, 3)) -> None:
        generator = torch.Generator().manual_seed(len(cases))
        program = _side_by_side(cases)
        inputs = [[_extreme(generator, (n, *shape), dtype) for shape, dtype, _ in cases] for n in batches]
        lowest = [torch.full((2, *shape), torch.iinfo(dtype).min, dtype=dtype) for shape, dtype, _ in cases]
        highest = [torch.full((2, *shape), torch.iinfo(dtype).max, dtype=dtype) for shape, dtype, _ in cases]
        same_bits(program, *inputs, lowest, highest)

    return check
