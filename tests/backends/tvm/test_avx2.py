"""Layers multiply pairs of 16 bits where a CPU has AVX2 but no AVX512-VNNI: every kind side by side, on the ends of their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.tvm import cpu, pack
from fxpress_backends.tvm.choose import parts
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.tile import AVX2_REGISTERS, image_tile, matrix_tile, registers
from fxpress_ir import Edit, Program
from hypothesis import given, settings
from hypothesis import strategies as st
from several import several
from support import built, fxp, residual_net
from torch import Tensor, fx
from tvm_cases import S8, S16, U8, Body, Limits, biases, convolution, multipliers, requantized, weights

SHORT: Limits = (-32768, 32767, torch.int16)
LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI)
AVX2, VNNI, _ = cpu.levels(LEVELS)
Loaded = Callable[[Program, Target, Path], Any]

DENSE, POINT, NARROW, STRIDED, GROUPED, DEPTHWISE, UNEVEN = (
    # inputs, outputs, groups, (height, width), kernel, stride, padding (top, left, bottom, right), dilation
    (20, 40, 1, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (33, 17, 1, (3, 20), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (3, 32, 1, (6, 5), (3, 3), (2, 2), (1, 1, 0, 1), (1, 1)),
    (16, 48, 1, (9, 7), (3, 2), (2, 1), (3, 0, 3, 2), (3, 2)),
    (32, 64, 8, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (18, 18, 18, (7, 7), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (34, 17, 17, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
)
CONVOLUTIONS: tuple[tuple[Any, torch.dtype, Limits | None, str], ...] = (
    (DENSE, torch.int8, S8, "conv2d_avx2"),
    (DENSE, torch.uint8, U8, "conv2d_avx2"),
    (DENSE, torch.int16, SHORT, "conv2d_avx2"),
    (POINT, torch.uint8, None, "conv2d_avx2"),
    (NARROW, torch.int8, U8, "conv2d_avx2"),
    (STRIDED, torch.uint8, S8, "conv2d_avx2"),
    (STRIDED, torch.int8, S16, "conv2d_avx2"),
    (GROUPED, torch.uint8, S8, "conv2d_avx2"),
    (GROUPED, torch.int16, S16, "conv2d_avx2"),
    (DEPTHWISE, torch.uint8, U8, "conv2d_depthwise_avx2"),
    (DEPTHWISE, torch.int16, S16, "conv2d_depthwise_avx2"),
    (UNEVEN, torch.int8, S8, "conv2d_loops"),
)
LINEAR: tuple[tuple[int, torch.dtype, Limits | None], ...] = (
    (17, torch.int8, S8),
    (48, torch.int8, None),
    (17, torch.uint8, None),
    (48, torch.uint8, SHORT),
    (17, torch.int16, S8),
    (48, torch.int16, None),
)


def linear(outputs: int, limits: Limits | None) -> Body:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(outputs)
        values = edit.add_tensor("weight", weights(generator, outputs, 50)), edit.add_tensor("bias", biases(generator, outputs))
        acc = edit.call(fxp.linear.default, x, *values)
        return acc if limits is None else requantized(edit, acc, multipliers(generator, outputs, 50), 16, limits, -1)

    return body


def residual(edit: Edit, x: fx.Node) -> fx.Node:
    case = (20, 20, *DENSE[2:])
    return edit.call(fxp.add.default, convolution(case, 1, S8)(edit, x), x, 15001, -9877, 14, *S8)


CASES: list[tuple[tuple[int, ...], torch.dtype, Body]] = [
    *(((case[0], *case[3]), dtype, convolution(case, number, limits)) for number, (case, dtype, limits, _) in enumerate(CONVOLUTIONS)),
    *(((7, 50), dtype, linear(outputs, limits)) for outputs, dtype, limits in LINEAR),
    *(((20, 5, 6), dtype, residual) for dtype in (torch.int8, torch.uint8)),
]


@pytest.fixture(scope="module")
def extremes() -> Program:
    def body(edit: Edit, *inputs: fx.Node) -> list[fx.Node]:
        return [make(edit, x) for x, (_, _, make) in zip(inputs, CASES, strict=True)]

    return several([(("batch", *shape), dtype) for shape, dtype, _ in CASES], body)


def batches() -> list[list[Tensor]]:
    """Drawn from all of each type, all least, all largest."""
    generator = torch.Generator().manual_seed(0)
    limits = [torch.iinfo(dtype) for _, dtype, _ in CASES]
    ends = [(limit.min, limit.max) for limit in limits]
    drawn = [torch.randint(low, high + 1, (3, *shape), generator=generator) for (shape, _, _), (low, high) in zip(CASES, ends, strict=True)]
    values = [drawn, *([torch.full_like(x, pair[end])[:1] for x, pair in zip(drawn, ends, strict=True)] for end in (0, 1))]
    return [[x.to(dtype) for x, (_, dtype, _) in zip(batch, CASES, strict=True)] for batch in values]


@pytest.mark.skipif(cpu.AVX2 not in cpu.host_features(), reason="this CPU has no AVX2")
def test_bits(extremes: Program, loaded: Loaded, targets: Mapping[str, Target], tmp_path: Path) -> None:
    runner = loaded(extremes, targets["tvm:x86-64-avx2"], tmp_path)
    for inputs in batches():
        found, expected = runner.run([x.numpy() for x in inputs]), extremes.run(*inputs)
        for number, (result, wanted) in enumerate(zip(found, expected, strict=True)):
            assert result.dtype == wanted.numpy().dtype
            np.testing.assert_array_equal(result, wanted.numpy(), err_msg=f"output {number}")


def test_what_products_of_pairs_take(extremes: Program) -> None:
    groups = plan(extremes, AVX2).groups
    named = [(group.kernel, group.why) for group in groups if group.kernel.startswith("conv2d")]
    assert [kernel for kernel, _ in named] == [kernel for *_, kernel in CONVOLUTIONS] + ["conv2d_avx2"] * 2
    assert {why for kernel, why in named if kernel == "conv2d_loops"} == {"17 groups of 2 inputs and 1 outputs"}
    assert [group.kernel for group in groups if group.kernel.startswith("linear")] == ["linear_avx2"] * len(LINEAR)
    assert [group.attributes["add"]["other"] for group in groups if "add" in group.attributes] == [-9877] * 2


def test_16_bits_stored_as_32_stay_in_loops() -> None:
    program = built((1, 50), linear(17, None), dtype=torch.int32)
    (group,) = [group for group in plan(program, AVX2).groups if group.kernel.startswith("linear")]
    assert (group.kernel, group.why) == ("linear_loops", "products of pairs take no int32")


def test_the_card_and_what_this_cpu_takes() -> None:
    assert (AVX2.name, AVX2.features, AVX2.storage) == ("tvm:x86-64-avx2", LEVELS[:3], "s8")
    assert [cpu.levels(LEVELS[:count])[0].runs_here for count in (2, 3, 4)] == [False, True, True]
    for features, kernel in (
        (LEVELS[:2], "linear_loops"),
        (LEVELS[:3], "linear_avx2"),
        (LEVELS[:4], "linear_avx2"),
        (LEVELS, "linear_vnni"),
    ):
        program = built((1, 50), linear(17, S8), dtype=torch.int8)
        groups = plan(program, cpu.native(features)).groups
        assert [group.kernel for group in groups if group.kernel.startswith("linear")] == [kernel]


def test_alternatives_keep_to_16_registers() -> None:
    found = [part.groups[0] for _, some in parts(plan(residual_net(channels=32, size=6), AVX2)) for part in some]
    assert {group.kernel for group in found} >= {"conv2d_avx2"}
    assert all(registers(int(np.prod(group.attributes["tile"][:-1])), group.attributes["tile"][-1]) <= 6 for group in found)


@pytest.mark.parametrize("available", sorted(set(AVX2_REGISTERS.values())))
@pytest.mark.parametrize("vectors", [1, 2, 3, 8])
def test_tiles_fit(available: int, vectors: int) -> None:
    for rows, columns, wide in (image_tile(*size, vectors, available) for size in ((1, 1), (7, 7), (3, 20))):
        assert vectors % wide == 0
        assert registers(rows * columns, wide) <= available
    assert matrix_tile(vectors, available) == (available - 2, 1)


@given(st.integers(1, 40), st.integers(1, 19), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_packed_weights_are_found_where_the_kernel_looks(outputs: int, inputs: int, width: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-128, 128, (outputs, inputs, 1, width))
    stored = -(-inputs // 4) * 4
    words = pack.weights_by_word(weight, -(-outputs // 16) * 16, stored)
    halves, pairs = pack.halves_of_words(words), pack.pairs_of_words(words)
    for o, i, tap in product(range(outputs), range(inputs), range(width)):
        channel, lane = tap * stored + i, o % 16 * 2
        assert halves[o // 16, channel // 4, channel % 2 * 32 + lane + channel % 4 // 2] == weight[o, i, 0, tap]
        assert pairs[o // 16, channel // 2, lane + channel % 2] == weight[o, i, 0, tap]
    assert np.abs(halves.astype(int)).sum() == np.abs(pairs.astype(int)).sum() == np.abs(weight).sum()
