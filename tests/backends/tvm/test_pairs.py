"""Linear layers that read 16 bits multiply pairs where the CPU has AVX512-VNNI: odd sizes, row tails, the ends of their type."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from fxpress_backends.tvm import cpu, pack
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.sizes import padded
from fxpress_ir import Edit
from hypothesis import given, settings
from hypothesis import strategies as st
from support import built, fxp
from torch import fx
from tvm_cases import S8, U8, Body, Check, Limits, biases, requantized, weights

SHORT: Limits = (-32768, 32767, torch.int16)
VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI))
CASES: tuple[tuple[tuple[int, ...], int, Limits | None], ...] = (
    ((1,), 1, S8),
    ((5, 7), 33, U8),
    ((29, 50), 19, SHORT),
    ((3, 131), 64, None),
    ((400,), 17, S8),
)


def linear(depth: int, outputs: int, limits: Limits | None) -> Body:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(depth)
        parts = edit.add_tensor("weight", weights(generator, outputs, depth)), edit.add_tensor("bias", biases(generator, outputs))
        acc = edit.call(fxp.linear.default, x, *parts)
        b = torch.tensor([1 if limits is S8 else 7], dtype=torch.int32)
        return acc if limits is None else requantized(edit, acc, b, 16, limits, -1)

    return body


def test_bits(same_on_extremes: Check) -> None:
    same_on_extremes([(shape, torch.int16, linear(shape[-1], outputs, limits)) for shape, outputs, limits in CASES])


@pytest.mark.parametrize(("target", "kernel"), [(VNNI, "linear_pairs"), (cpu.x86_64(), "linear_loops")])
def test_the_kernel_is_the_targets(target: object, kernel: str) -> None:
    program = built((1, 29, 50), linear(50, 19, SHORT), dtype=torch.int16)
    assert [group.kernel for group in plan(program, target).groups if "linear" in group.kernel] == [kernel]  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(1, 19), st.integers(0, 99))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_packed_weights_are_found_where_the_kernel_looks(outputs: int, inputs: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-127, 128, (outputs, inputs, 1, 1))
    found = pack.pairs_of_words(pack.weights_by_word(weight, padded(outputs, 16), padded(inputs, 16)))
    for o, i in product(range(outputs), range(inputs)):
        assert found[o // 16, i // 2, o % 16 * 2 + i % 2] == weight[o, i, 0, 0]
    assert np.abs(found.astype(int)).sum() == np.abs(weight).sum()
