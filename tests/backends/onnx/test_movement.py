"""Values that change places in storage, between convolutions whose layout ONNX Runtime changes: the same values in the same places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.onnx.integer import F1
from fxpress_backends.onnx.lower import emit
from fxpress_backends.onnx.movement import Repeat, repeat
from fxpress_ir import Edit, Program
from hypothesis import given
from hypothesis import strategies as st
from onnx_cases import Check, activations, exact, extreme, seeds
from support import aten, built, conv, fxp, requantize
from torch import fx

CHANNELS, SIZE = 5, [4, 6]
BODIES = {
    "select2d doubles": lambda e, x: e.call(fxp.select2d.default, x, [i // 2 for i in range(8)], [i // 2 for i in range(12)]),
    "select2d edges": lambda e, x: e.call(fxp.select2d.default, x, [0, 0, 1, 2, 3, 3, 3], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
    "select2d mixed": lambda e, x: e.call(fxp.select2d.default, x, [3, 1, 1, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]),
    "select2d down": lambda e, x: e.call(fxp.select2d.default, x, [0, 2], [1, 3, 5]),
    "insert_zeros": lambda e, x: e.call(fxp.insert_zeros.default, x, [2, 3]),
    "insert_zeros nothing": lambda e, x: e.call(fxp.insert_zeros.default, x, [1, 1]),
    "pad2d": lambda e, x: e.call(fxp.pad2d.default, x, [1, 0, 2, 3], 9),
    "pad2d least": lambda e, x: e.call(fxp.pad2d.default, x, [1, 1, 1, 1], 0 if x.args[-1] == torch.uint8 else -128),
    "concat": lambda e, x: e.call(fxp.concat.default, [x, x, x], -3),
    "concat rows": lambda e, x: e.call(fxp.concat.default, [x, e.call(aten.slice.Tensor, x, 2, 1, 3)], 2),
    "lut": lambda e, x: e.call(fxp.lut.default, x, e.add_tensor("table", torch.arange(256).flip(0).to(torch.uint8)[None]), 1),
    "max_pool2d": lambda e, x: e.call(
        fxp.max_pool2d.default, e.call(fxp.pad2d.default, x, [0, 0, 1, 1], 0), [3, 3], [2, 2], [1] * 4, [1, 1]
    ),
    "multiply": lambda e, x: _gated(e, x),
}


def _gated(edit: Edit, x: fx.Node) -> fx.Node:
    sums = edit.call(fxp.sum_pool2d.default, x, SIZE, SIZE, [0] * 4)
    gate = requantize(edit, sums, torch.tensor([900], dtype=torch.int32), 14, relu=True, axis=1, name="gate")
    acc = edit.call(fxp.multiply.default, x, gate)
    return requantize(edit, acc, torch.tensor([200], dtype=torch.int32), 16, relu=False, axis=1, name="gated")


def between_convolutions(body: Callable[[Edit, fx.Node], fx.Node], relu: bool) -> Program:
    generator = torch.Generator().manual_seed(3)

    def weight(outputs: int, inputs: int) -> torch.Tensor:
        return torch.randint(-127, 128, (outputs, inputs, 3, 3), generator=generator, dtype=torch.int8)

    def whole(edit: Edit, x: fx.Node) -> fx.Node:
        b = torch.tensor([300], dtype=torch.int32)
        first = conv(edit, x, weight(CHANNELS, CHANNELS), None, b, 16, relu=relu, name="first")
        moved = body(edit, first)
        channels = 3 * CHANNELS if moved.target is fxp.concat.default and moved.args[1] == -3 else CHANNELS
        return conv(edit, moved, weight(CHANNELS, channels), None, b, 16, relu=False, name="second")

    return built((1, CHANNELS, 4, 6), whole, dtype=torch.int8)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("relu", [False, True])
def test_between_convolutions(same_bits: Check, body: Callable[[Edit, fx.Node], fx.Node], relu: bool) -> None:
    program = between_convolutions(body, relu)
    for batch in (1, 3):
        same_bits(program, extreme(torch.Generator().manual_seed(batch), (batch, CHANNELS, 4, 6), torch.int8))


@exact
@given(
    seeds, activations, st.lists(st.integers(0, 3), min_size=1, max_size=9), st.lists(st.integers(0, 4), min_size=1, max_size=9), st.data()
)
def test_movements(same_bits: Check, seed: int, dtype: torch.dtype, rows: list[int], columns: list[int], data: Any) -> None:
    stride, padding = (data.draw(st.lists(st.integers(least, 3), min_size=count, max_size=count)) for least, count in ((1, 2), (0, 4)))
    limits = torch.iinfo(dtype)
    value = data.draw(st.sampled_from([limits.min, limits.max, 0, 1]))

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        selected = edit.call(fxp.select2d.default, x, rows, columns)
        padded = edit.call(fxp.pad2d.default, edit.call(fxp.insert_zeros.default, selected, stride), padding, value)
        return edit.call(fxp.concat.default, [padded, padded], data.draw(st.sampled_from([1, 2, 3, -1])))

    same_bits(built((1, 2, 4, 5), body, dtype=dtype), extreme(torch.Generator().manual_seed(seed), (3, 2, 4, 5), dtype))


@pytest.mark.parametrize("factors", [(2, 2), (4, 4), (4, 2), (1, 2), (3, 1), (6, 6), (7, 5)])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 32)])
def test_nearest_upsampling_by_whole_factors(same_bits: Check, factors: tuple[int, int], size: tuple[int, int]) -> None:
    rows, columns = ([i // factor for i in range(factor * length)] for factor, length in zip(factors, size, strict=True))
    program = built((1, 2, *size), lambda edit, x: edit.call(fxp.select2d.default, x, rows, columns), dtype=torch.uint8)
    same_bits(program, extreme(torch.Generator().manual_seed(1), (3, 2, *size), torch.uint8))
    assert "Gather" not in [node.op_type for node in emit(program, F1).graph]


@pytest.mark.parametrize(
    ("indices", "size", "expected"),
    [
        ([0, 1, 2], 3, Repeat(1, 0, 0)),
        ([0, 0, 0, 1, 1, 2, 2, 2], 3, Repeat(2, 1, 1)),
        ([0, 1, 2, 3, 3], 4, Repeat(1, 0, 1)),
        ([0, 0, 0, 1, 1, 1], 2, Repeat(3, 0, 0)),
        ([0, 0, 0], 1, Repeat(3, 0, 0)),
        ([0, 2, 1], 3, None),
        ([0, 2], 3, None),
        ([1, 1, 2, 2], 3, None),
        ([0, 0, 1, 1, 2], 3, None),
        ([0, 1, 1, 2, 2, 2, 3, 3], 4, None),
        ([0, 0, 0, 1], 2, None),
    ],
)
def test_indices_that_repeat_are_recognised(indices: Sequence[int], size: int, expected: Repeat | None) -> None:
    assert repeat(indices, size) == expected


@exact
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_what_is_recognised_is_what_was_repeated(size: int, factor: int, before: int, after: int) -> None:
    indices = [*[0] * before, *np.repeat(np.arange(size), factor).tolist(), *[size - 1] * after]
    found = repeat(indices, size)
    if found is not None:
        again = [*[0] * found.before, *np.repeat(np.arange(size), found.factor).tolist(), *[size - 1] * found.after]
        assert again == indices
    assert found is not None or size == 2
