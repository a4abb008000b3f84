"""Packed weights hold every weight where kernels look for it, and tiles fit the registers and the image."""

from __future__ import annotations

from itertools import product

import numpy as np
from fxpress_backends.tvm import pack
from fxpress_backends.tvm.sizes import padded
from fxpress_backends.tvm.tile import COLUMNS, REGISTERS, column_tile, image_tile, matrix_tile, registers
from hypothesis import given, settings
from hypothesis import strategies as st


@given(st.integers(1, 230), st.integers(1, 230), st.integers(1, 64))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_tiles_fit_the_registers_and_the_image(height: int, width: int, vectors: int) -> None:
    rows, columns, wide = image_tile(height, width, vectors)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert vectors % wide == 0
    assert registers(rows * columns, wide) <= REGISTERS
    tall, wide = matrix_tile(vectors)
    assert vectors % wide == 0
    assert registers(tall, wide) <= REGISTERS


def test_tiles_of_resnet_waste_nothing() -> None:
    assert [image_tile(size, size, 4) for size in (112, 56, 28, 14, 7)] == [(1, 14, 2)] * 4 + [(1, 7, 2)]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_packed_weights_are_found_where_kernels_look(outputs: int, inputs: int, height: int, width: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-127, 128, (outputs, inputs, height, width))
    channels, stored = padded(outputs, 16), padded(inputs, 4)
    by_lane, by_word = pack.weights_by_lane(weight, channels), pack.weights_by_word(weight, channels, stored)
    for o, i, h, w in product(range(outputs), range(inputs), range(height), range(width)):
        tap = h * width + w
        assert by_lane[o // 16, tap * inputs + i, o % 16] == weight[o, i, h, w]
        assert by_word[o // 16, tap * (stored // 4) + i // 4, o % 16 * 4 + i % 4] == weight[o, i, h, w]
    total = np.abs(weight).sum()
    assert np.abs(by_lane.astype(int)).sum() == np.abs(by_word.astype(int)).sum() == total


@given(
    st.sampled_from([1, 2, 3, 5]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 3),
    st.sampled_from([2, 4]),
    st.integers(0, 99),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_columns_of_a_depthwise_kernel_meet_their_rows(
    rows: int, stride: int, dilation: int, height: int, width: int, size: int, seed: int
) -> None:
    """A dot product over words of input rows is the sum over the kernel's rows."""
    draw = np.random.default_rng(seed)
    weight = draw.integers(-127, 128, (5, 1, height, width))
    words = pack.column_words(rows, height, stride, dilation, size)
    by_column = pack.weights_by_column(weight, 16, rows, stride, dilation, size)
    packed = by_column.astype(np.int64).reshape(1, len(words), width, 16, size)
    reach = (rows - 1) * stride + (height - 1) * dilation + 1
    image = draw.integers(0, 256, (padded(reach, size), 16))
    for row, column in product(range(rows), range(width)):
        mine = [(number, start * size) for number, (its_row, start) in enumerate(words) if its_row == row]
        found = sum(np.einsum("bc,cb->c", image[start : start + size], packed[0, number, column]) for number, start in mine)
        wanted = sum(image[row * stride + tap * dilation, :5] * weight[:, 0, tap, column] for tap in range(height))
        np.testing.assert_array_equal(found[:5], wanted)


@given(st.integers(1, 24), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_merged_groups_are_the_same_convolution(groups: int, inputs: int, outputs: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    weight, x = draw.integers(-127, 128, (groups * outputs, inputs, 1, 1)), draw.integers(0, 256, groups * inputs)
    merged = pack.merging(groups, inputs, outputs)
    assert groups % merged == 0
    assert merged == groups or (merged * outputs % 16 == 0 and merged * inputs % 4 == 0)
    blocks = pack.block_diagonal(weight, groups, merged)[..., 0, 0].reshape(groups // merged, merged * outputs, merged * inputs)
    apart = weight[..., 0, 0].reshape(groups, outputs, inputs)
    found, wanted = np.einsum("goi,gi->go", blocks, x.reshape(groups // merged, -1)), np.einsum("goi,gi->go", apart, x.reshape(groups, -1))
    np.testing.assert_array_equal(found.reshape(-1), wanted.reshape(-1))


@given(st.integers(1, 112), st.integers(1, 112), st.tuples(st.integers(1, 7), st.integers(1, 7)), st.integers(1, 3))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_tiles_of_depthwise_kernels_fit(height: int, width: int, kernel: tuple[int, int], stride: int) -> None:
    for kind in COLUMNS.values():
        rows, columns = column_tile(height, width, kernel, (stride, stride), (1, 1), kind)
        assert 1 <= rows <= height
        assert 1 <= columns <= width
        assert rows * columns <= kind.sums
