"""Normalised rows, alone and behind gains and offsets: 8 and 16 bits, centred or not, every h that a row can have."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from fxpress_backends.onnx import ONNX
from fxpress_backends.onnx.integer import F1
from fxpress_backends.onnx.lower import emit
from fxpress_backends.onnx.qlinear import F2
from fxpress_ir import Edit, Program, violations
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx_cases import Check, activations, exact, extreme, seeds
from several import several
from support import aten, built, fxp
from torch import Tensor, fx

RESULTS = ((-128, 127, torch.int8), (0, 255, torch.uint8), (-7, 100, torch.int8), (3, 200, torch.uint8), (-32768, 32767, torch.int16))
S8 = RESULTS[0]


def mapped(edit: Edit, u: fx.Node, g: Tensor, b: Tensor, c: int, limits: Any, axis: int = -1) -> fx.Node:
    parts = edit.add_tensor("g", g.to(torch.int32)), edit.add_tensor("b", b.to(torch.int32))
    return edit.call(fxp.affine.default, u, *parts, c, limits[0], limits[1], axis, limits[2])


def unit(shape: tuple[int, ...], dtype: torch.dtype, epsilon: int = 1, *, centre: bool = True) -> Program:
    return built((1, *shape), lambda edit, x: edit.call(fxp.normalize.default, x, epsilon, centre), dtype=dtype)


def rows(generator: torch.Generator, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Extremes; rows of one value, and with one more of another."""
    x, limits = extreme(generator, (batch, *shape), dtype), torch.iinfo(dtype)
    x[0], x[1] = limits.min, limits.max
    x[1, ..., -1] = limits.min
    return x


@exact
@given(
    seeds,
    activations,
    st.sampled_from([(2,), (17,), (3, 5), (2, 3, 4)]),
    st.one_of(st.integers(1, 99), st.integers(1, 2**61)),
    st.booleans(),
)
def test_normalize(same_bits: Check, seed: int, dtype: torch.dtype, shape: tuple[int, ...], epsilon: int, centre: bool) -> None:
    same_bits(unit(shape, dtype, epsilon, centre=centre), rows(torch.Generator().manual_seed(seed), 5, shape, dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("count", [768, 4096])
def test_long_rows(same_bits: Check, dtype: torch.dtype, centre: bool, count: int) -> None:
    same_bits(unit((count,), dtype, centre=centre), rows(torch.Generator().manual_seed(count), 5, (count,), dtype))


@pytest.mark.parametrize("centre", [True, False])
def test_every_power_of_four(same_bits: Check, centre: bool) -> None:
    """h from 1 to 15 and more: two values apart by every power of two."""
    x = torch.tensor([[-(1 << k >> 1), (1 << k) - (1 << k >> 1)] for k in range(16)] + [[-1, 1], [0, 0], [-32768, 32767]])
    same_bits(unit((2,), torch.int16, centre=centre), x.to(torch.int16))


@exact
@given(
    seeds,
    st.sampled_from([torch.int8, torch.int16, None]),
    st.sampled_from(RESULTS),
    st.integers(1, 24),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(1, 3),
    st.sampled_from([4, 2**15 - 1]),
)
def test_affine(same_bits: Check, seed: int, dtype: Any, limits: Any, c: int, each: tuple[bool, bool], axis: int, most: int) -> None:
    """Of a byte, of 16 bits, of a normalised value; gains and offsets along any axis or one for all."""
    generator, shape = torch.Generator().manual_seed(seed), (3, 4, 5)
    g, b = (
        torch.randint(-reach, reach + 1, (shape[axis - 1] if many else 1,), generator=generator)
        for reach, many in zip((most, 2**29), each, strict=True)
    )

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        u = edit.call(fxp.normalize.default, x, 1, True) if dtype is None else x
        return mapped(edit, u, g, b, c, limits, axis if seed % 2 else axis - 4)

    program = built((1, *shape), body, dtype=dtype or torch.int8)
    assume(not violations(program))
    same_bits(program, rows(generator, 6, shape, dtype or torch.int8))


@pytest.mark.parametrize("c", [22, 23, 24])
@pytest.mark.parametrize("limits", [S8, (0, 255, torch.uint8), (-32768, 32767, torch.int16)], ids=["s8", "u8", "s16"])
def test_sums_near_the_end_of_32_bits(same_bits: Check, c: int, limits: Any) -> None:
    """|u * g| + |b| reaches 2**31 - 2**c - 1: no offset but 2**31 leaves room."""
    reach = 2**31 - 1 - (1 << c) - 2**15 * 32767
    for b in (reach, -reach):
        program = built(
            (1, 6), lambda edit, x, b=b: mapped(edit, x, torch.tensor([32767]), torch.tensor([b]), c, limits), dtype=torch.int16
        )
        same_bits(program, extreme(torch.Generator().manual_seed(c), (20, 6), torch.int16))


def test_ties_go_to_even(same_bits: Check) -> None:
    x = torch.arange(-128, 128).reshape(-1, 1).expand(-1, 3).to(torch.int8).contiguous()
    program = built((1, 3), lambda edit, x: mapped(edit, x, torch.tensor([1, -3, 2]), torch.tensor([0, 2, -4]), 2, S8), dtype=torch.int8)
    sums = x * torch.tensor([1, -3, 2]) + torch.tensor([0, 2, -4])
    assert torch.equal(program.run(x)[0].long(), (sums / 4).round().clamp(-128, 127).long())
    same_bits(program, x)


def test_a_normalised_value_with_two_maps_and_one_that_is_returned(same_bits: Check) -> None:
    """The residual of 16 bits and the byte for the next product; then a reader of another kind."""
    generator = torch.Generator().manual_seed(0)
    g, b = torch.randint(-4000, 4000, (40,), generator=generator), torch.randint(-(2**20), 2**20, (40,), generator=generator)

    def two(edit: Edit, x: fx.Node) -> fx.Node:
        u = edit.call(fxp.normalize.default, x, 1, True)
        wide, narrow = mapped(edit, u, g, b, 10, RESULTS[-1]), mapped(edit, u, g // 2, b, 17, S8)
        return edit.call(fxp.add.default, wide, narrow, 3, -500, 4, -32768, 32767, torch.int16)

    def viewed(edit: Edit, x: fx.Node) -> fx.Node:
        u = edit.call(fxp.normalize.default, x, 1, True)
        first = mapped(edit, u, g, b, 16, S8)
        second = mapped(edit, edit.call(aten.view.default, u, [-1, 2, 20]), g[:20], b[:20], 17, S8)
        return edit.call(fxp.add.default, first, edit.call(aten.view.default, second, [-1, 40]), 3, 5, 3, -128, 127, torch.int8)

    for body in (two, viewed):
        same_bits(built((1, 40), body, dtype=torch.int16), rows(generator, 9, (40,), torch.int16))


def test_batch_and_length_are_symbolic(same_bits: Check) -> None:
    generator = torch.Generator().manual_seed(1)
    g, b = torch.randint(-4000, 4000, (6,), generator=generator), torch.randint(-(2**20), 2**20, (6,), generator=generator)
    program = several(
        [(("batch", "tokens", 6), torch.int8)],
        lambda edit, x: mapped(edit, edit.call(fxp.normalize.default, edit.call(aten.transpose.int, x, 0, 1), 7, True), g, b, 15, S8),
    )
    for batch, tokens in ((1, 1), (3, 2), (2, 9)):
        same_bits(program, extreme(generator, (batch, tokens, 6), torch.int8))


def test_few_shifts_an_element_and_no_sum_in_floats() -> None:
    """Five shifts of a row's root, two of the normalisation; two of the map's rounding in F1, one Round in F2."""
    program = built(
        (1, 9, 8),
        lambda edit, x: mapped(edit, edit.call(fxp.normalize.default, x, 1, True), torch.tensor([5]), torch.tensor([7]), 9, S8),
        dtype=torch.int8,
    )
    counts = [Counter(node.op_type for node in emit(program, flavour).graph) for flavour in (F1, F2)]
    assert [count["BitShift"] for count in counts] == [5 + 2 + 2, 5 + 2]
    assert [count["Round"] for count in counts] == [0, 1]
    assert not {"ReduceSum", "Div", "Sqrt"} & {*counts[0], *counts[1]}


def test_a_result_that_is_never_reached_needs_too_many_bits(targets: Any) -> None:
    program = built(
        (1, 4), lambda edit, x: mapped(edit, x, torch.tensor([1]), torch.tensor([0]), 20, (-32768, -5000, torch.int16)), dtype=torch.int8
    )
    (refusal,) = ONNX.legalize(program, targets["onnx:int"])
    assert refusal.reason == "a result of at most -5000 with shift 20 needs more than 32 bits"
