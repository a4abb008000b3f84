"""Depthwise conv2d: some rows of a column of 16 channels, interleaved to 16 words, meet a column of the kernel in one dot product.

Interleaving is what costs; a tile does it once for each input column and word of rows, for all output pixels that they reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, PAIR, WORD, column_words
from .avx2 import SUMS, add_products
from .byte_dot import four_sums
from .epilogue import finish, requantization
from .operand import Call, Expr, fill_halo
from .vnni import dot

_ALL = T.Ramp(0, 1, LANES)


class Words:
    """Four rows of bytes to a word, for AVX512-VNNI.

    Class attributes:
        size: rows of a word.
    """

    size: ClassVar[int] = WORD

    @classmethod
    def interleaved(cls, taken: Sequence[Expr], dtype: str) -> Any:
        """Rows of 16 channels ==> what `add` takes."""
        return T.bind(T.reinterpret(f"int8x{LANES * WORD}", _interleaved(taken, range(LANES))))

    @staticmethod
    def add(sums: Expr, words: Any, weights: Expr, at: tuple[Expr, int]) -> None:
        """sums[16] += words . the weights at [block, number]."""
        T.buffer_store(sums, dot(sums[_ALL], words, weights[(*at, T.Ramp(0, 1, LANES * WORD))]), [_ALL])


class SignedWords(Words):
    """The same for Arm's dot products, u8 less 128; four channels at a time."""

    @classmethod
    def interleaved(cls, taken: Sequence[Expr], dtype: str) -> Any:
        even, odd = (_zipped(*taken[first::PAIR]) for first in range(PAIR))
        quarters = [quarter for half in zip(even, odd, strict=True) for quarter in _zipped(*half)]
        bits = T.Broadcast(T.int8(-128), LANES)
        return [T.bind(T.bitwise_xor(quarter, bits) if dtype == "uint8" else quarter) for quarter in quarters]

    @staticmethod
    def add(sums: Expr, words: Any, weights: Expr, at: tuple[Expr, int]) -> None:
        for part, quarter in enumerate(words):
            some, taken = T.Ramp(part * WORD, 1, WORD), T.Ramp(part * LANES, 1, LANES)
            T.buffer_store(sums, four_sums("sdot", sums[some], quarter, weights[(*at, taken)]), [some])


def _zipped(first: Expr, second: Expr) -> list[Expr]:
    """Two vectors of 16 bytes, one byte after the other: ``zip1`` and ``zip2``."""
    both = [T.bind(T.reinterpret(f"int8x{LANES}", vector)) for vector in (first, second)]
    halves = (range(LANES // 2), range(LANES // 2, LANES))
    return [T.bind(T.Shuffle(both, [T.int32(row * LANES + byte) for byte in half for row in range(PAIR)])) for half in halves]


class Pairs(Words):
    """Two rows of bytes, or of 16 bits, to a pair of s16, for AVX2; 8 channels at a time."""

    size: ClassVar[int] = PAIR

    @classmethod
    def interleaved(cls, taken: Sequence[Expr], dtype: str) -> Any:
        halves = [_interleaved(taken, range(first, first + SUMS)) for first in range(0, LANES, SUMS)]
        return [T.bind(half if dtype == "int16" else T.Cast(f"int16x{SUMS * PAIR}", half)) for half in halves]

    @staticmethod
    def add(sums: Expr, words: Any, weights: Expr, at: tuple[Expr, int]) -> None:
        for half, pairs in enumerate(words):
            some, taken = T.Ramp(half * SUMS, 1, SUMS), T.Ramp(half * SUMS * PAIR, 1, SUMS * PAIR)
            T.buffer_store(sums, add_products(sums[some], pairs, weights[(*at, taken)]), [some])


def _interleaved(rows: Sequence[Expr], channels: range) -> Expr:
    """Some channels of rows of 16, row after row within each."""
    return T.Shuffle(rows, [T.int32(row * LANES + channel) for channel in channels for row in range(len(rows))])


def conv2d_depthwise(call: Call) -> None:
    _depthwise(call, Words)


def conv2d_depthwise_sdot(call: Call) -> None:
    _depthwise(call, SignedWords)


def conv2d_depthwise_avx2(call: Call) -> None:
    _depthwise(call, Pairs)


def _depthwise(call: Call, kind: type[Words]) -> None:
    """Tasks are rows of tiles; channels innermost, so that images are read and written in order."""
    output, (rows, columns) = call.output, call.attributes["tile"]
    height, width = output.spec.pixels
    row_blocks = -(-height // rows)

    fill_halo(output)
    with T.parallel(output.lead * row_blocks) as task:
        image = T.bind(task // row_blocks)
        first_row = T.bind(T.min(task % row_blocks * rows, height - rows))
        with T.serial(-(-width // columns)) as step:
            first_column = T.bind(T.min(step * columns, width - columns))
            with T.serial(output.spec.channels // LANES) as block:
                _tile(call, kind, [image, first_row, first_column], block)


def _tile(call: Call, kind: type[Words], corner: list[Expr], block: Expr) -> None:
    """16 channels of a tile; each sum lives in its own register."""
    weight, bias = call.constants[:2]
    settings, channel = call.attributes, T.bind(block * LANES)
    (rows, columns), (kernel_height, kernel_width) = settings["tile"], settings["kernel"]
    (down, right), (dilation_down, dilation_right) = settings["stride"], settings["dilation"]
    words = column_words(rows, kernel_height, down, dilation_down, kind.size)
    span = (rows - 1) * down + (kernel_height - 1) * dilation_down + 1

    pixels = {(row, column): T.alloc_buffer((LANES,), "int32") for row in range(rows) for column in range(columns)}
    start = T.bind(bias[T.Ramp(channel, 1, LANES)])
    for sums in pixels.values():
        T.buffer_store(sums, start, [_ALL])
    for at in range((columns - 1) * right + (kernel_width - 1) * dilation_right + 1):
        met = [(c, t) for c in range(columns) for t in range(kernel_width) if c * right + t * dilation_right == at]
        for number in sorted({number for _, number in words} if met else ()):
            reached = [min(kind.size * number + place, span - 1) for place in range(kind.size)]
            word = kind.interleaved(_rows(call, corner, reached, at, channel), call.inputs[0].spec.dtype)
            for place, (row, its_number) in enumerate(words):
                for column, tap in met if its_number == number else ():
                    kind.add(pixels[row, column], word, weight, (block, place * kernel_width + tap))
    image, first_row, first_column = corner
    parameters = requantization(call, channel)
    for (row, column), sums in pixels.items():
        finish(call, sums[_ALL], parameters, [image, first_row + row, first_column + column], channel)


def _rows(call: Call, corner: list[Expr], rows: list[int], column: int, channel: Expr) -> list[Expr]:
    """Some rows of one input column, 16 channels each; rows are counted from the first that the tile reads."""
    (down, right), (above, before, _, _) = call.attributes["stride"], call.attributes["padding"]
    image, first_row, first_column = corner
    at = [[image, first_row * down - above + row, first_column * right - before + column] for row in rows]
    return [call.inputs[0].load_lanes(position, channel) for position in at]
