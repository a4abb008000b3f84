"""Comparisons of every integer type with its extremes, and logic of moved booleans: NumPy's bits are the program's."""

from __future__ import annotations

import numpy as np
import pytest
from fxpress_backends.reference import Interpreter
from fxpress_ir import Program, verify
from logic import compared, comparing, joined, joining
from positions import masks, positions
from torch import Tensor


def _check_equal(program: Program, inputs: list[Tensor], dtype: type = np.bool_) -> None:
    verify(program)
    found = Interpreter.of(program).run([x.numpy() for x in inputs])
    for result, wanted in zip(found, program.run(*inputs), strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, wanted.numpy())


@pytest.mark.parametrize("number", range(6))
def test_comparisons(number: int) -> None:
    for batch, length in ((1, 1), (3, 17)):
        _check_equal(comparing(number), compared(batch, length))


def test_logic() -> None:
    for batch, length in ((1, 1), (3, 4), (2, 10)):
        _check_equal(joining(), joined(batch, length))


def test_positions() -> None:
    for batch, length in ((1, 1), (4, 5), (3, 64)):
        _check_equal(positions(), masks(batch, length), np.int64)
