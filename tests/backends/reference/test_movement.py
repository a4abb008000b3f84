"""Tables, products and values that change places: NumPy against the torch kernels, over shapes and extreme values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fxpress_backends.reference.kernels import KERNELS
from fxpress_backends.reference.run import Interpreter
from fxpress_ir.errors import ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fxp, moving_net

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
BYTES = st.sampled_from([np.int8, np.uint8])


def codes(seed: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Values of the whole type, the ends often."""
    random = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    ends = random.random(shape) < 0.3
    return np.where(ends, random.choice([limits.min, limits.max], shape), random.integers(limits.min, limits.max + 1, shape)).astype(dtype)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_net_of_moves_gives_the_bits_of_pytorch(batch: int) -> None:
    program = moving_net()
    x = torch.randn(batch, 6, 7, 6, generator=torch.Generator().manual_seed(batch))
    assert np.array_equal(Interpreter.of(program).run([x.numpy()])[0], program.run(x)[0].numpy())


@SETTINGS
@given(SEEDS, BYTES, BYTES, st.integers(1, 4), st.booleans())
def test_lut(seed: int, dtype: type, result: type, channels: int, each: bool) -> None:
    x, table = codes(seed, (2, channels, 3, 5), dtype), codes(seed + 1, (channels if each else 1, 256), result)
    expected = fxp.lut(torch.from_numpy(x), torch.from_numpy(table), 1)
    assert np.array_equal(KERNELS["fxp.lut"](x, table, 1), expected.numpy())


@SETTINGS
@given(SEEDS, BYTES, BYTES, st.sampled_from([(2, 3, 4, 4), (2, 3, 1, 1), (1, 3, 1, 4)]))
def test_multiply_broadcasts(seed: int, left: type, right: type, shape: tuple[int, ...]) -> None:
    x, y = codes(seed, (2, 3, 4, 4), left), codes(seed + 1, shape, right)
    expected = fxp.multiply(torch.from_numpy(x), torch.from_numpy(y))
    found = KERNELS["fxp.multiply"](x, y)
    assert found.dtype == np.int32
    assert np.array_equal(found, expected.numpy())


@SETTINGS
@given(SEEDS, BYTES, st.data())
def test_select2d(seed: int, dtype: type, data: st.DataObject) -> None:
    x = codes(seed, (2, 3, 4, 5), dtype)
    rows, columns = (data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9)) for size in (4, 5))
    expected = fxp.select2d(torch.from_numpy(x), rows, columns)
    assert np.array_equal(KERNELS["fxp.select2d"](x, rows, columns), expected.numpy())


@SETTINGS
@given(SEEDS, BYTES, st.tuples(*[st.integers(0, 3)] * 4), st.integers(0, 100))
def test_pad2d(seed: int, dtype: type, padding: tuple[int, ...], value: int) -> None:
    x = codes(seed, (1, 2, 3, 4), dtype)
    expected = fxp.pad2d(torch.from_numpy(x), list(padding), value)
    assert np.array_equal(KERNELS["fxp.pad2d"](x, padding, value), expected.numpy())


@SETTINGS
@given(SEEDS, BYTES, st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_insert_zeros(seed: int, dtype: type, stride: tuple[int, int]) -> None:
    x = codes(seed, (2, 2, 3, 4), dtype)
    expected = fxp.insert_zeros(torch.from_numpy(x), list(stride))
    assert np.array_equal(KERNELS["fxp.insert_zeros"](x, stride), expected.numpy())


@SETTINGS
@given(SEEDS, BYTES, st.integers(0, 3), st.integers(1, 4))
def test_concat(seed: int, dtype: type, axis: int, count: int) -> None:
    parts = [codes(seed + i, (2, 2, 2, 2), dtype) for i in range(count)]
    expected = fxp.concat([torch.from_numpy(part) for part in parts], axis)
    assert np.array_equal(KERNELS["fxp.concat"](parts, axis), expected.numpy())


@SETTINGS
@given(SEEDS, st.integers(1, 2**15 - 1), st.integers(1, 2**15 - 1), st.integers(1, 15))
def test_a_subtraction(seed: int, bx: int, by: int, c: int) -> None:
    x, y = codes(seed, (3, 7), np.int8), codes(seed + 1, (3, 7), np.int8)
    expected = fxp.add(torch.from_numpy(x), torch.from_numpy(y), bx, -by, c, -128, 127, torch.int8)
    assert np.array_equal(KERNELS["fxp.add"](x, y, bx, -by, c, -128, 127, "int8"), expected.numpy())


def test_a_product_outside_int32_is_refused() -> None:
    large = np.full((1,), 2**16, np.int64)
    with pytest.raises(ProgramError, match="leaves int32"):
        KERNELS["fxp.multiply"](large, large)
