"""Floats become the nearest integers of an input, integers of an output become the floats that they stand for."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from fxpress_ir import InputSpec, Program, run_on_reals, to_reals, to_steps
from fxpress_ir.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from support import built
from torch import Tensor

SPEC = InputSpec("x", (3,), torch.int8, 0.25)
LIMITS = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767)}
floats = st.floats(-1e6, 1e6, width=32)


@given(st.lists(floats, min_size=1), st.sampled_from(sorted(LIMITS, key=str)), st.integers(-12, 6))
def test_steps_are_the_nearest_integers_half_to_even_and_clamped(values: list[float], dtype: torch.dtype, exponent: int) -> None:
    """In steps of a power of two, where no division rounds."""
    (found,) = to_steps([InputSpec("x", (len(values),), dtype, 2.0**exponent)], [torch.tensor(values)])
    low, high = LIMITS[dtype]
    assert found.dtype == dtype
    assert found.tolist() == [min(max(round(Fraction(value) / Fraction(2) ** exponent), low), high) for value in values]


@given(st.floats(2.0**-20, 2.0**20, width=32), st.integers(-128, 127))
def test_every_integer_comes_back_from_its_real_number(scale: float, q: int) -> None:
    steps = torch.tensor([q], dtype=torch.int8)
    (real,) = to_reals([scale], [steps])
    assert real.dtype == torch.float32
    assert torch.equal(to_steps([InputSpec("x", (1,), torch.int8, scale)], [real])[0], steps)


def test_what_stands_for_itself_passes() -> None:
    ids, x, q = torch.tensor([1]), torch.tensor([1.0]), torch.tensor([1], dtype=torch.int8)
    specs = [InputSpec("ids", (1,), torch.int64), InputSpec("x", (1,), torch.float32), InputSpec("q", (1,), torch.int8, 0.5)]
    assert all(after is before for after, before in zip(to_steps(specs, [ids, x, q]), (ids, x, q), strict=True))
    assert [value.tolist() for value in to_reals([None, None, 0.5], [ids, x, q])] == [[1], [1.0], [0.5]]


def test_arrays_are_taken_too() -> None:
    assert to_steps([SPEC], [np.array([0.3, -9e9, 0.5], np.float32)])[0].tolist() == [1, -128, 2]
    assert to_reals([0.25], [np.array([1, -2], np.int8)])[0].tolist() == [0.25, -0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([torch.tensor([1.0, float("nan"), 0.0])], "input 'x': holds NaN or infinity; an integer has no such value"),
        ([torch.tensor([float("inf")])], "input 'x': holds NaN or infinity; an integer has no such value"),
        ([], "0 inputs given, 1 expected; pass x: int8[3] in steps of 0.25"),
    ],
)
def test_what_no_integer_stands_for_is_an_error(values: list[Tensor], message: str) -> None:
    with pytest.raises(InputError) as caught:
        to_steps([SPEC], values)
    assert str(caught.value) == message


def _doubled() -> Program:
    """q + q in s8, taken in steps of 0.25 and given in steps of 0.5."""
    program = built((1, 3), lambda e, x: e.call(torch.ops.fxp.add.default, x, x, 1, 1, 1, -128, 127, torch.int8), dtype=torch.int8)
    edit = program.edit()
    edit.take_steps(edit.here(program.placeholders()[0]), torch.int8, 0.25)
    edit.output_scales = (0.5,)
    return edit.finish()


def test_a_program_of_integers_runs_on_reals() -> None:
    x = torch.tensor([[0.3, 100.0, -0.5]])
    assert run_on_reals(_doubled(), x)[0].tolist() == [[0.5, 63.5, -1.0]]
    assert run_on_reals(_doubled(), torch.tensor([[1, 2, 3]], dtype=torch.int8))[0].tolist() == [[0.5, 1.0, 1.5]]
    with pytest.raises(
        InputError, match=r"dtype is torch.float32, expected torch.int8; pass a tensor x: int8\[batch, 3\] in steps of 0.25"
    ):
        _doubled().run(x)
