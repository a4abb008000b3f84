"""Weights and per-channel parameters ==> the arrays that kernels read in order, 16 output channels at a time."""

from __future__ import annotations

from itertools import product
from math import gcd
from typing import Any

import numpy as np
from fxpress_ir.dyadic import saturation_bounds
from numpy.typing import NDArray

from .physical import Buffer
from .sizes import Size

LANES = 16
"""Output channels that one vector holds: 16 int32 in 512 bits."""
WORD = 4
"""Input channels, or rows, that one VNNI dot product sums: four bytes of a 32-bit lane."""
PAIR = 2
"""The same of 16 bits."""
EIGHT = 8
"""The same of Arm's products of matrices."""
BYTES = LANES * WORD
"""Bytes of a vector."""
LINE = 64
"""Bytes of a line of cache."""


def line_starts(elements: int, dtype: str) -> range:
    """The first element of each line of cache that a run of elements fills."""
    return range(0, elements, LINE // np.dtype(dtype).itemsize)


def columns(buffer: Buffer) -> int:
    """How many entries a table of per-channel parameters has: one a stored channel, one vector for all where their number is symbolic."""
    return LANES if isinstance(buffer.innermost, Size) else buffer.innermost


def line(buffer: Buffer) -> int:
    """The elements of the innermost dimensions that are numbers, two at most; 1 where not even the innermost one is."""
    if isinstance(buffer.innermost, Size):
        return 1
    outer = buffer.outer[-1] if buffer.outer else 1
    return buffer.innermost * (outer if isinstance(outer, int) else 1)


def weights_by_lane(weight: NDArray[Any], channels: int) -> NDArray[np.int8]:
    """[oc, ic, kh, kw] ==> [oc / 16, kh * kw * ic, 16], zeros for the channels up to `channels`."""
    count, inputs, height, width = weight.shape
    filled = np.zeros((channels, inputs, height, width), np.int8)
    filled[:count] = weight
    blocks = filled.reshape(-1, LANES, inputs, height, width).transpose(0, 3, 4, 2, 1)
    return np.ascontiguousarray(blocks.reshape(-1, height * width * inputs, LANES))


def weights_by_word(weight: NDArray[Any], channels: int, stored_inputs: int) -> NDArray[np.int8]:
    """[oc, ic, kh, kw] ==> [oc / 16, kh * kw * ic' / 4, 64]: 16 lanes of 4 input channels, ic filled up to ic' with zeros."""
    filled = np.zeros((weight.shape[0], stored_inputs, *weight.shape[2:]), np.int8)
    filled[:, : weight.shape[1]] = weight
    by_lane = weights_by_lane(filled, channels)
    words = by_lane.reshape(by_lane.shape[0], -1, WORD, LANES).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(words.reshape(by_lane.shape[0], -1, BYTES))


def pairs_of_words(words: NDArray[np.int8]) -> NDArray[np.int16]:
    """[oc / 16, words, 64] ==> [oc / 16, words * 2, 32]: 16 lanes of 2 input channels in 16 bits."""
    split = words.reshape(len(words), -1, LANES, WORD // PAIR, PAIR).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(split.reshape(len(words), -1, LANES * PAIR).astype(np.int16))


def halves_of_words(words: NDArray[np.int8]) -> NDArray[np.int16]:
    """[oc / 16, words, 64] ==> the same in 16 bits: 16 lanes of channels 0 and 2 of each word, then 16 lanes of 1 and 3."""
    split = words.reshape(len(words), -1, LANES, PAIR, WORD // PAIR).transpose(0, 1, 4, 2, 3)
    return np.ascontiguousarray(split.reshape(words.shape).astype(np.int16))


def twos_of_words(words: NDArray[np.int8]) -> NDArray[np.int8]:
    """[oc / 16, words, 64] ==> the same bytes: 16 lanes of channels 0 and 1 of each word, then 16 lanes of 2 and 3."""
    split = words.reshape(len(words), -1, LANES, WORD // PAIR, PAIR).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(split.reshape(words.shape))


def eights_of_words(words: NDArray[np.int8]) -> NDArray[np.int8]:
    """[oc / 16, words, 64] ==> [oc / 16, words / 2, 128]: 16 lanes of 8 input channels."""
    split = words.reshape(len(words), -1, EIGHT // WORD, LANES, WORD).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(split.reshape(len(words), -1, LANES * EIGHT))


def weights_by_tile(words: NDArray[np.int8], run: int) -> NDArray[np.int8]:
    """[oc / 16, runs * run, 64] ==> [oc / 16, runs * tiles, rows * 64]: up to 16 words of each run, as AMX multiplies them at once.

    The last tile of a run is moved back inside it; what it repeats is zeros.
    """
    rows = min(run, LANES)
    runs = words.reshape(len(words), -1, run, BYTES)
    tiles = np.zeros((*runs.shape[:2], -(-run // rows), rows, BYTES), np.int8)
    for number in range(tiles.shape[2]):
        repeated = max(0, (number + 1) * rows - run)
        tiles[:, :, number, repeated:] = runs[:, :, number * rows : (number + 1) * rows]
    return tiles.reshape(len(words), -1, rows * BYTES)


def merging(groups: int, inputs: int, outputs: int) -> int:
    """How many neighbouring groups of a convolution make whole vectors of outputs from whole words of inputs; all where none do."""
    merged = LANES // gcd(LANES, outputs)
    return groups if groups % merged or inputs * merged % WORD else merged


def block_diagonal(weight: NDArray[Any], groups: int, merged: int) -> NDArray[Any]:
    """[oc, ic, kh, kw] ==> [oc, merged * ic, kh, kw]: the weights of merged groups, zeros for the inputs of an output's other groups."""
    outputs, inputs, *window = weight.shape
    blocks = np.zeros((outputs, merged, inputs, *window), weight.dtype)
    blocks[np.arange(outputs), np.arange(outputs) // (outputs // groups) % merged] = weight
    return blocks.reshape(outputs, merged * inputs, *window)


def column_words(rows: int, kernel: int, stride: int, dilation: int, size: int) -> dict[tuple[int, int], list[int | None]]:
    """Which kernel row each of `size` input rows meets: by output row of a tile, and number of the word from its first input row on.

    Words that meet no row of the kernel are left out.
    """
    numbers = range(-(-((rows - 1) * stride + (kernel - 1) * dilation + 1) // size))
    words = {}
    for row, number in product(range(rows), numbers):
        offsets = [size * number + place - row * stride for place in range(size)]
        met = [offset // dilation if offset % dilation == 0 and 0 <= offset // dilation < kernel else None for offset in offsets]
        if met != [None] * size:
            words[row, number] = met
    return words


def weights_by_column(weight: NDArray[Any], channels: int, rows: int, stride: int, dilation: int, size: int) -> NDArray[np.int8]:
    """[c, 1, kh, kw] ==> [c / 16, words * kw, 16 * size]: 16 lanes of a channel's weights for each of `column_words`, column by column."""
    count, _, height, width = weight.shape
    words = column_words(rows, height, stride, dilation, size).values()
    filled = np.zeros((channels, len(words), width, size), np.int8)
    for (number, word), column in product(enumerate(words), range(width)):
        for place, row in enumerate(word):
            if row is not None:
                filled[:count, number, column, place] = weight[:, 0, row, column]
    blocks = filled.reshape(-1, LANES, len(words) * width, size).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks.reshape(channels // LANES, -1, LANES * size))


def tables_by_byte(table: NDArray[Any], rows: int, source: Buffer, result: Buffer) -> NDArray[Any]:
    """[tables, codes] ==> [rows, 256]: what is stored for each stored byte, zeros for the rows beyond the last table.

    Codes count from the least integer of the source's type, as its bytes do unless it is stored as s8.
    """
    filled = np.zeros((rows, 256), np.int64)
    filled[: len(table), : table.shape[1]] = table[:, :256] + result.zero
    return np.roll(filled, 128 if source.dtype == "int8" else 0, 1).astype(result.dtype)


def stored_array(values: NDArray[Any], buffer: Buffer) -> NDArray[Any]:
    """A tensor as its buffer holds it; what lies beyond its channels is 0, a halo is the zero point."""
    held = values.astype(np.int64) + buffer.zero
    if buffer.layout == "rows":
        filled = np.zeros((*held.shape[:-1], buffer.channels), buffer.dtype)
        filled[..., : held.shape[-1]] = held
        return filled
    top, left, bottom, right = buffer.halo
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    image = np.pad(held.transpose(0, 2, 3, 1), around, constant_values=buffer.zero)
    filled = np.zeros((*image.shape[:3], buffer.channels), buffer.dtype)
    filled[..., : image.shape[3]] = image
    return filled if buffer.middle else filled.reshape(len(held), buffer.channels)


def spread(values: NDArray[Any], channels: int, fill: int = 0) -> NDArray[np.int64]:
    """One value a channel up to the stored channels; a single value goes to all of them."""
    filled = np.full(channels, fill, np.int64)
    filled[: channels if values.size == 1 else values.size] = values
    return filled


def folded_bias(weight: NDArray[Any], bias: NDArray[np.int64] | None, zero: int) -> NDArray[np.int64]:
    """``bias - zero * sum w``: the bias for an input stored with zero point `zero`, shape [oc]."""
    sums: NDArray[np.int64] = weight.reshape(weight.shape[0], -1).astype(np.int64).sum(1)
    return (0 if bias is None else bias) - zero * sums


def requantization(b: NDArray[np.int64], c: int, qmin: int, qmax: int, channels: int) -> NDArray[np.int64]:
    """The rows pre-clip low, pre-clip high and multiplier, shape [3, channels]."""
    low, high = saturation_bounds(b, c, qmin, qmax)
    return np.stack([spread(low, channels), spread(high, channels), spread(b, channels, fill=1)])
