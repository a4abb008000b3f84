"""Comparisons of every integer type with its extremes, and logic of moved booleans: ONNX Runtime's bits are the program's."""

from __future__ import annotations

import pytest
from fxpress_backends.onnx.integer import F1
from fxpress_backends.onnx.lower import emit
from logic import compared, comparing, joined, joining
from onnx_cases import Check
from positions import masks, positions


@pytest.mark.parametrize("number", range(6))
def test_comparisons(number: int, same_bits: Check) -> None:
    program = comparing(number)
    for batch, length in ((1, 1), (3, 17)):
        same_bits(program, *compared(batch, length))


def test_logic(same_bits: Check) -> None:
    for batch, length in ((1, 1), (3, 4), (2, 10)):
        same_bits(joining(), *joined(batch, length))


def test_int64_keeps_its_width_and_others_are_widened() -> None:
    kinds = [node.op_type for node in emit(comparing(), F1).graph]
    assert kinds.count("Equal") == 10
    assert kinds.count("Not") == 5
    assert {kind for kind in kinds if "Equal" in kind} == {"Equal", "LessOrEqual", "GreaterOrEqual"}


def test_positions(same_bits: Check) -> None:
    for batch, length in ((1, 1), (4, 5), (3, 64)):
        same_bits(positions(), *masks(batch, length))
