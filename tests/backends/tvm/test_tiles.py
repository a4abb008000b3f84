"""Tiles cover what they cut, take what they repeat once, and go where the count of cycles says."""

from __future__ import annotations

import numpy as np
import pytest
from fxpress_backends.tvm.pack import BYTES, weights_by_tile
from fxpress_backends.tvm.physical import NO_HALO, Buffer
from fxpress_backends.tvm.sizes import Size
from fxpress_backends.tvm.tiles import conv2d_tiles, even, linear_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

BATCH, LENGTH = (Size(((1, (name,)),)) for name in ("batch", "length"))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_tiles_moved_back_count_every_word_once(runs: int, run: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    words = generator.integers(-128, 128, (2, runs * run, BYTES)).astype(np.int8)
    x = generator.integers(0, 256, (runs, run, 4))
    tiles = weights_by_tile(words, run)
    height = tiles.shape[2] // BYTES
    assert height == min(run, 16)
    split = tiles.reshape(2, runs, -1, height, 16, 4)
    starts = [min(number * height, run - height) for number in range(split.shape[2])]
    found = sum(
        np.einsum("rkb,vrknb->vn", x[:, at : at + height], split[:, :, number].astype(np.int64)) for number, at in enumerate(starts)
    )
    wanted = np.einsum("rkb,vrknb->vn", x, words.reshape(2, runs, run, 16, 4).astype(np.int64))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (16, 16), (17, 9), (20, 10), (28, 14), (49, 13), (56, 14), (61, 16), (112, 16)])
def test_tiles_of_a_length_are_even(length: int, rows: int) -> None:
    assert even(length) == rows


def images(size: int, channels: int, outputs: int, halo: int, stride: int = 1) -> tuple[Buffer, Buffer]:
    around = (halo,) * 4 if halo else NO_HALO
    source = Buffer("x", BATCH, (channels, size, size), "NHWC", channels, around, "uint8", 128)
    return source, Buffer("y", BATCH, (outputs, size // stride, size // stride), "NHWC", outputs, NO_HALO, "uint8")


@pytest.mark.parametrize(
    ("size", "stride", "tile", "across"),
    [
        (56, 1, [14, 2, 2], False),
        (28, 1, [14, 2, 2], False),
        (14, 1, [14, 2, 2], False),
        (7, 1, [16, 2, 2], True),
        (14, 2, [7, 2, 2], False),
    ],
)
def test_tiles_of_residual_networks(size: int, stride: int, tile: list[int], across: bool) -> None:
    """Of 3 x 3 convolutions with 64 channels; rows of 7 pixels go on into the next."""
    window = {"kernel": [3, 3], "stride": [stride] * 2, "dilation": [1, 1]}
    settings, run, small = conv2d_tiles(*images(size, 64, 64, 1, stride), window, 64, 64)
    assert settings == {"tile": tile, "across": across, "weights_outermost": False}
    assert (run, small) == (48, "")


def test_more_than_a_megabyte_of_weights_goes_outermost() -> None:
    window = {"kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1]}
    assert [conv2d_tiles(*images(14, c, c, 1), window, c, c)[0]["weights_outermost"] for c in (256, 512)] == [False, True]


def rows(*shape: int | Size) -> Buffer:
    return Buffer("x", shape[0], shape[1:], "rows", shape[-1], NO_HALO, "uint8")


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [
        ((BATCH, 4), [16, 2, 2]),
        ((1, 197), [16, 2, 2]),
        ((1, 50), [13, 2, 2]),
        ((2, 8), [16, 1, 2]),
        ((1, 5), [5, 1, 2]),
        ((BATCH, LENGTH), [16, 2, 2]),
    ],
)
def test_tiles_of_rows(sizes: tuple[int | Size, int | Size], tile: list[int]) -> None:
    settings, small = linear_tiles(rows(*sizes, 64), rows(*sizes, 96))
    assert (settings["tile"], small) == (tile, "")


def test_what_is_only_a_batch_of_rows_may_be_one_row() -> None:
    assert linear_tiles(rows(BATCH, 64), rows(BATCH, 96))[1] == "tiles want 4 rows, it has 1"
