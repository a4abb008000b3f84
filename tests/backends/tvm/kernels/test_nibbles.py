"""Weights of 4 bits, two to a byte until registers: the operator's bits at every size, where it is done and where not, and by time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_backends.contract import Runner, Target
from fxpress_backends.tvm import TVM, TvmBackend, cpu, nibbles, pack
from fxpress_backends.tvm.choose import Part
from fxpress_backends.tvm.nibbles import FEWEST_BYTES, MOST_ROWS, fits, nibbles_of_words
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from support import fxp
from torch import Tensor
from torch.fx import Node
from tvm_cases import S8, U8, Body, Limits, biases, multipliers, requantized

FEATURES = cpu.host_features()
here = pytest.mark.skipif(cpu.VNNI not in FEATURES, reason="this CPU has no AVX512-VNNI")
VNNI = cpu.levels(())[1]
SIZES = ((1, 1), (3, 16), (17, 33), (64, 48), (100, 257))
"""Inputs and outputs."""
CASES: Sequence[tuple[tuple[int, int], torch.dtype, Limits | None]] = [
    (size, dtype, (None, S8, U8)[(place + int(dtype == torch.uint8)) % 3])
    for place, size in enumerate(SIZES)
    for dtype in (torch.int8, torch.uint8)
]


def linear(inputs: int, outputs: int, limits: Limits | None, least: int = -8, most: int = 7) -> Body:
    """Weights of 4 bits, an output with the largest alone and one with the least."""
    generator = torch.Generator().manual_seed(inputs)

    def body(edit: Edit, x: Node) -> Node:
        weight = torch.randint(least, most + 1, (outputs, inputs), generator=generator, dtype=torch.int8)
        weight[0], weight[-1] = most, least
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("w", weight), edit.add_tensor("bias", biases(generator, outputs)))
        return acc if limits is None else requantized(edit, acc, multipliers(generator, outputs, inputs // 8 + 1), 16, limits, -1)

    return body


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_weights_are_found_where_the_kernel_looks(outputs: int, inputs: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-8, 8, (outputs, inputs))
    words = pack.weights_by_word(weight[..., None, None], -(-outputs // 16) * 16, -(-inputs // 16) * 16)
    found = nibbles_of_words(words)
    assert found.nbytes * 2 == words.nbytes
    for o, i in product(range(outputs), range(inputs)):
        byte = int(found[o // 16, i // 8, o % 16 * 4 + i % 4])
        nibble = byte >> 4 if i % 8 >= 4 else (byte & 15) - 16 * (byte >> 3 & 1)
        assert nibble == weight[o, i]


@given(hnp.arrays(np.int64, (3, 5), elements=st.integers(-8, 7)), st.integers(-(2**27), 2**27))
def test_what_fits_is_exact_at_sixteen_times(weight: NDArray[np.int64], bias: int) -> None:
    """At the bytes that make each sum the largest."""
    if not fits(weight, np.full(3, bias, np.int32)):
        assert np.abs(weight).sum(1).max() * 255 + abs(bias) >= 2**27
        return
    for x in (np.where(weight > 0, 255, 0), np.where(weight < 0, 255, 0)):
        sums = (weight * x).sum(1) + bias
        sixteen = (16 * sums).astype(np.int32)
        assert (sixteen >> 4 == sums).all()


@pytest.mark.parametrize(("value", "bias", "held"), [(7, 0, True), (-8, 0, True), (8, 0, False), (-9, 0, False), (7, 2**27, False)])
def test_weights_of_more_bits_and_large_sums_do_not_fit(value: int, bias: int, held: bool) -> None:
    assert fits(np.array([[value]]), np.array([bias], np.int32)) is held
    assert not fits(np.full((1, 2**17), 7), np.zeros(1, np.int32))


@pytest.fixture(scope="module")
def kernels(side_by_side: Callable[..., Program], tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Runner]:
    """All cases in one library."""
    program = side_by_side([((size[0],), dtype, linear(*size, limits)) for size, dtype, limits in CASES])
    target, folder = {target.name: target for target in TVM.targets()}["tvm:native"], tmp_path_factory.mktemp("nibbles")
    details = TvmBackend(nibbles=True).lower(program, target, folder)
    assert [group["kernel"] for group in details["groups"]].count("linear_nibbles") == len(CASES)
    assert {one["bits"] for one in details["packed"].values()} == {4}
    assert "apart" not in details
    return program, TVM.load(folder, {"target": target.name, "details": details}, {})


def _same(kernels: tuple[Program, Runner], inputs: Sequence[NDArray[Any]]) -> None:
    program, runner = kernels
    for found, wanted in zip(runner.run(inputs), program.run(*map(torch.from_numpy, inputs)), strict=True):
        np.testing.assert_array_equal(found, wanted.numpy(), strict=True)


@here
@pytest.mark.parametrize("rows", [1, 4, 5, 12])
@pytest.mark.parametrize("end", ["min", "max"])
def test_extreme_inputs(kernels: tuple[Program, Runner], rows: int, end: str) -> None:
    limits = [(getattr(torch.iinfo(dtype), end), dtype, size) for size, dtype, _ in CASES]
    _same(kernels, [torch.full((rows, size[0]), value, dtype=dtype).numpy() for value, dtype, size in limits])


@here
@given(st.data(), st.integers(1, 7))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_inputs(kernels: tuple[Program, Runner], data: st.DataObject, rows: int) -> None:
    shapes = [(np.dtype(str(dtype).removeprefix("torch.")), (rows, size[0])) for size, dtype, _ in CASES]
    _same(kernels, [data.draw(hnp.arrays(dtype, shape)) for dtype, shape in shapes])


def _net(rows: int | None, inputs: int, outputs: int, fixed: Callable[..., Program], side_by_side: Callable[..., Program]) -> Program:
    """Rows that are known, or a batch."""
    body = linear(inputs, outputs, None)
    if rows is None:
        return side_by_side([((inputs,), torch.int8, body)])
    return fixed(torch.zeros(rows, inputs, dtype=torch.int8), body)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "kernel"),
    [
        (1, 1024, FEWEST_BYTES // 1024, "linear_nibbles"),
        (MOST_ROWS, 1024, FEWEST_BYTES // 1024, "linear_nibbles"),
        (MOST_ROWS + 1, 1024, FEWEST_BYTES // 1024, "linear_vnni"),
        (1, 1024, FEWEST_BYTES // 1024 - 16, "linear_vnni"),
        (None, 1024, FEWEST_BYTES // 1024, "linear_vnni"),
    ],
)
def test_few_rows_by_many_weights(
    rows: int | None, inputs: int, outputs: int, kernel: str, fixed: Callable[..., Program], side_by_side: Callable[..., Program]
) -> None:
    program = _net(rows, inputs, outputs, fixed, side_by_side)
    assert [group.kernel for group in plan(program, VNNI).groups if group.kernel.startswith("linear")] == [kernel]
    assert [group.kernel for group in plan(program, VNNI, nibbles=False).groups if group.kernel.startswith("linear")] == ["linear_vnni"]


def test_what_cannot_be_split_stays(fixed: Callable[..., Program], targets: Mapping[str, Target]) -> None:
    wide = fixed(torch.zeros(1, 64, dtype=torch.int8), linear(64, 32, None, -9, 7))
    narrow = fixed(torch.zeros(1, 64, dtype=torch.int8), linear(64, 32, None))
    shorts = fixed(torch.zeros(1, 64, dtype=torch.int16), linear(64, 32, None))
    for program, target, kernel in (
        (wide, VNNI, "linear_vnni"),
        (shorts, VNNI, "linear_pairs"),
        (narrow, targets["tvm:x86-64"], "linear_loops"),
        (narrow, targets["tvm:aarch64-dotprod"], "linear_sdot"),
    ):
        assert kernel in [group.kernel for group in plan(program, target, nibbles=True).groups]


@here
@pytest.mark.parametrize("faster", ["linear_nibbles", "linear_vnni"])
def test_time_decides(faster: str, monkeypatch: pytest.MonkeyPatch, fixed: Callable[..., Program], tmp_path: Path) -> None:
    """Against the rule, too, and with prefetches."""
    monkeypatch.setattr(nibbles, "FEWEST_BYTES", 0 if faster == "linear_vnni" else FEWEST_BYTES)

    def planted(some: Sequence[Part], *_: object) -> dict[str, float]:
        return {part.signature: (50.0 if str(part).startswith(faster) else 100.0) - 9 * ("prefetch 16+1" in str(part)) for part in some}

    monkeypatch.setattr("fxpress_backends.tvm.tune.microseconds", planted)
    program = fixed(torch.zeros(2, 128, dtype=torch.int8), linear(128, 96, S8))
    artifact = fx.lower(program, "tvm:native", out=tmp_path / "model", tune={})
    details = artifact.manifest["details"]
    assert [group["kernel"] for group in details["groups"] if group["kernel"].startswith("linear")] == [faster]
    assert details["tuned"]["table"][-1]["chosen"] == 1
    assert ("packed" in details) == (faster == "linear_nibbles")
    assert ("apart" in details) == (faster == "linear_vnni")
    x = torch.randint(-128, 128, (2, 128), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(artifact.run(x)[0], program.run(x)[0].numpy())


def test_a_library_holds_half(fixed: Callable[..., Program], tmp_path: Path) -> None:
    """By the rule, at one row."""
    outputs = FEWEST_BYTES // 2048
    program = fixed(torch.zeros(1, 2048, dtype=torch.int8), linear(2048, outputs, None))
    artifact = fx.lower(program, VNNI.name, out=tmp_path / "model")
    (held,) = artifact.manifest["details"]["packed"].values()
    assert held == {"bits": 4, "bytes": FEWEST_BYTES // 2, "dense_bytes": FEWEST_BYTES}
    assert 0 < artifact.payload_size - FEWEST_BYTES // 2 < 1 << 16
    if cpu.VNNI in FEATURES:
        x: Tensor = torch.randint(-128, 128, (1, 2048), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
        assert np.array_equal(artifact.run(x)[0], program.run(x)[0].numpy())
