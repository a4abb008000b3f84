"""acc[16][8] += x[16][32] . w[32][8]: CUDA's int8 tensor cores, ``mma.sync.m16n8k32``, a tile of rows x channels each warp.

Fragments are read from memory as they lie: four bytes of a row of x, or of a channel's weights, are one register of one thread
(PTX ISA, "Matrix Fragments for mma.m16n8k32"). A convolution's rows are its output pixels, its depth the words of its taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, WORD
from .epilogue_one import finish_one
from .linear_vnni import indices
from .operand import Call, Expr, fill_halo

WARP, ROWS, COLUMNS, DEPTH = 32, 16, 8, 8
"""Threads, and rows, columns and words of depth of one instruction."""
_SUMS, _LEFT, _RIGHT = 4, 4, 2
"""Registers of a thread: sums, words of x, words of weights."""
_SOURCE = """__device__ __forceinline__ void fxpress_mma_{0}(int* c, int a0, int a1, int a2, int a3, int b0, int b1) {{
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.{0}.s8.s32 {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
    : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}}
"""


class Warp:
    """32 threads in step: of a GPU, or, emulated, a loop around each of their statements over registers that lie side by side."""

    def __init__(self, lane: Expr | None) -> None:
        self._lane = lane

    @contextmanager
    def each(self) -> Iterator[Expr]:
        """What every thread does, given its number."""
        if self._lane is not None:
            yield self._lane
            return
        with T.serial(WARP) as lane:
            yield lane

    def registers(self, count: int, dtype: str = "int32") -> Registers:
        return Registers(T.alloc_buffer((count * (WARP if self._lane is None else 1),), dtype), 1 if self._lane is not None else WARP)

    def multiply(self, sums: Registers, first: int, x: Registers, x_first: int, w: Registers, w_first: int, signed: bool) -> None:
        """One instruction on registers from those of the given numbers on."""
        if self._lane is None:
            _multiplied(sums, first, x, x_first, w, w_first, signed)
            return
        kind = "s8" if signed else "u8"
        operands = [x.at(0, x_first + number) for number in range(_LEFT)] + [w.at(0, w_first + number) for number in range(_RIGHT)]
        T.evaluate(T.cuda.func_call(f"fxpress_mma_{kind}", T.address_of(sums.at(0, first)), *operands, source_code=_SOURCE.format(kind)))


class Registers:
    """Some values of each thread; `threads` lie side by side."""

    def __init__(self, memory: Any, threads: int) -> None:
        self._memory, self._threads = memory, threads

    def at(self, lane: Expr, number: Expr) -> Expr:
        return self._memory[self._index(lane, number)]

    def set(self, lane: Expr, number: Expr, value: Expr) -> None:
        T.buffer_store(self._memory, value, [self._index(lane, number)])

    def _index(self, lane: Expr, number: Expr) -> Expr:
        return number if self._threads == 1 else number * self._threads + lane


def _multiplied(sums: Registers, first: int, x: Registers, x_first: int, w: Registers, w_first: int, signed: bool) -> None:
    """What the instruction does, by the fragments of PTX: row, column and depth of every byte, and whose register has it."""
    with T.serial(ROWS) as row, T.serial(COLUMNS) as column, T.serial(DEPTH * WORD) as k:
        of_row, of_column, of_sum = row % 8 * 4 + k % 16 // 4, column * 4 + k % 16 // 4, row % 8 * 4 + column // 2
        left = x.at(of_row, x_first + row // 8 + k // 16 * 2)
        right = w.at(of_column, w_first + k // 16)
        low, high = (T.shift_right(T.shift_left(word, 24 - k % 4 * 8), T.int32(24)) for word in (left, right))
        value = low if signed else T.bitwise_and(low, T.int32(255))
        number = first + row // 8 * 2 + column % 2
        sums.set(of_sum, number, sums.at(of_sum, number) + value * high)


def linear_mma(call: Call) -> None:
    (source,), output = call.inputs, call.output
    depth = source.spec.channels // WORD
    count = output.lead * prod(output.outer)
    _product(call, count, lambda row: row * depth, lambda row: indices(row, output.outer), (1, 1, depth), (0, 0))


def conv2d_mma(call: Call) -> None:
    """Without groups; with dilation 1 the taps of a kernel row are neighbours in memory."""
    source, output, settings = call.inputs[0], call.output, call.attributes
    (height, width), (kernel_height, kernel_width) = output.spec.pixels, settings["kernel"]
    (down, right), (dilation_down, dilation_right) = settings["stride"], settings["dilation"]
    pixel_words = source.spec.channels // WORD
    image_words = source.image_elements // WORD
    row_words = image_words // (source.spec.middle[0] if source.spec.middle else 1)
    top, left = (have - used for have, used in zip(source.spec.halo[:2], settings["padding"][:2], strict=True))
    dense = dilation_right == 1

    def base(pixel: Expr) -> Expr:
        image, row, column = indices(pixel, (height, width))
        return image * image_words + (row * down + top) * row_words + (column * right + left) * pixel_words

    fill_halo(output)
    taps = (kernel_height, 1, kernel_width * pixel_words) if dense else (kernel_height, kernel_width, pixel_words)
    steps = (dilation_down * row_words, dilation_right * pixel_words)
    _product(call, output.lead * (height * width), base, lambda pixel: indices(pixel, (height, width)), taps, steps)


def _product(
    call: Call,
    count: Expr,
    base: Callable[[Expr], Expr],
    outer: Callable[[Expr], list[Expr]],
    taps: Sequence[int],
    steps: Sequence[int],
) -> None:
    """Warps take tiles of rows x channels; rows beyond the last one repeat it.

    Args:
        count: rows of the product.
        base: where the words of a row start.
        outer: the output's indices of a row.
        taps: how often the depth steps down, right, and along words; the first two by the words that `steps` says.
    """
    source, output = call.inputs[0], call.output
    weight, bias = call.constants[:2]
    words, (high, wide), signed = source.words(), call.attributes["tile"], source.spec.dtype == "int8"
    across = output.spec.channels // (wide * COLUMNS)
    tiles = (count + (high * ROWS - 1)) // (high * ROWS) * across

    def tile(place: Expr, warp: Warp) -> None:
        first_row, first_column = T.bind(place // across * (high * ROWS)), T.bind(T.Cast("int32", place % across) * (wide * COLUMNS))
        sums, bases = warp.registers(high * wide * _SUMS), warp.registers(high * 2, "int64")
        x, w = warp.registers(high * _LEFT), warp.registers(wide * _RIGHT)

        def row_of(lane: Expr, number: int, half: int) -> Expr:
            return T.min(first_row + (number * ROWS + half * 8) + lane // 4, count - 1)

        with warp.each() as lane:
            for number, half in product(range(high), range(2)):
                bases.set(lane, number * 2 + half, T.Cast("int64", base(row_of(lane, number, half))))
            for number, column, register in product(range(high), range(wide), range(_SUMS)):
                at = first_column + column * COLUMNS + lane % 4 * 2 + register % 2
                sums.set(lane, (number * wide + column) * _SUMS + register, bias[at])
        with T.serial(taps[0]) as tap, T.serial(taps[1]) as run, T.serial(taps[2] // DEPTH) as step:
            offset = T.bind(tap * steps[0] + run * steps[1] + step * DEPTH)
            depth = T.bind((tap * taps[1] + run) * taps[2] + step * DEPTH)
            with warp.each() as lane:
                for number, register in product(range(high), range(_LEFT)):
                    here = bases.at(lane, number * 2 + register % 2) + (offset + lane % 4 + register // 2 * 4)
                    x.set(lane, number * _LEFT + register, words[here])
                for column, register in product(range(wide), range(_RIGHT)):
                    channel = T.bind(first_column + column * COLUMNS + lane // 4)
                    found = weight[channel // LANES, depth + lane % 4 + register * 4, channel % LANES]
                    w.set(lane, column * _RIGHT + register, found)
            for number, column in product(range(high), range(wide)):
                warp.multiply(sums, (number * wide + column) * _SUMS, x, number * _LEFT, w, column * _RIGHT, signed)
        with warp.each() as lane:
            for number, column, register in product(range(high), range(wide), range(_SUMS)):
                found = sums.at(lane, (number * wide + column) * _SUMS + register)
                at = T.bind(first_column + column * COLUMNS + lane % 4 * 2 + register % 2)
                finish_one(call, found, outer(T.bind(row_of(lane, number, register // 2))), at)

    if call.attributes.get("emulated"):
        with T.parallel(tiles) as place:
            tile(place, Warp(None))
    else:
        with T.parallel(tiles) as place, T.serial(WARP) as lane:
            tile(place, Warp(lane))
