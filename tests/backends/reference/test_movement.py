"""Tables, products and values that change places: NumPy against the torch kernels, over shapes and extreme values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from fxpress_backends.reference.kernels import KERNELS
from fxpress_backends.reference.run import Interpreter
from fxpress_ir.errors import ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st
from support import aten, fxp, moving_net

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


@SETTINGS
@given(SEEDS, BYTES, st.integers(1, 9), st.integers(0, 3))
def test_embedding(seed: int, dtype: type, rows: int, length: int) -> None:
    table, ids = codes(seed, (rows, 5), dtype), np.random.default_rng(seed).integers(0, rows, (2, length))
    assert np.array_equal(
        KERNELS["aten.embedding"](table, ids, -1, False, False), aten.embedding(*map(torch.from_numpy, (table, ids))).numpy()
    )


@pytest.mark.parametrize("number", [-1, 9])
def test_a_number_outside_the_table_is_refused(number: int) -> None:
    with pytest.raises(ProgramError, match=r"outside the table's 9 rows"):
        KERNELS["aten.embedding"](np.zeros((9, 2), np.int8), np.array([0, number]), -1, False, False)


def test_a_product_outside_int32_is_refused() -> None:
    large = np.full((1,), 2**16, np.int64)
    with pytest.raises(ProgramError, match="leaves int32"):
        KERNELS["fxp.multiply"](large, large)


@SETTINGS
@given(SEEDS, st.integers(1, 4), st.booleans(), st.booleans())
def test_lut16(seed: int, channels: int, each: bool, steep: bool) -> None:
    """The torch operator and the kernel are both the exact chord, rounded half up."""
    random = np.random.default_rng(seed)
    table = (
        random.choice([-32768, 32767], (channels if each else 1, 513))
        if steep
        else random.integers(-32768, 32768, (channels if each else 1, 513))
    )
    x, table = random.integers(-32768, 32768, (2, channels, 5)).astype(np.int16), table.astype(np.int16)
    found = KERNELS["fxp.lut16"](x, table, 1)
    assert np.array_equal(found, fxp.lut16(torch.from_numpy(x), torch.from_numpy(table), 1).numpy())
    for (image, channel, place), code in np.ndenumerate(x):
        start, rest = divmod(int(code) + 32768, 128)
        left, right = (int(table[channel if each else 0, start + knot]) for knot in (0, 1))
        assert found[image, channel, place] == math.floor(left + Fraction((right - left) * rest, 128) + Fraction(1, 2))
