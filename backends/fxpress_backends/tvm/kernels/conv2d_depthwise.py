"""Depthwise conv2d: four rows of a column of 16 channels, interleaved to 16 words, meet a column of the kernel in one VNNI dot product.

Interleaving is what costs; a tile does it once for each input column and four rows, for all output pixels that they reach.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, WORD, column_words
from .epilogue import finish, requantization
from .operand import Call, Expr, fill_halo
from .vnni import dot

_ALL = T.Ramp(0, 1, LANES)
_INTERLEAVED = [byte * LANES + lane for lane in range(LANES) for byte in range(WORD)]


def conv2d_depthwise(call: Call) -> None:
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
                _tile(call, [image, first_row, first_column], block)


def _tile(call: Call, corner: list[Expr], block: Expr) -> None:
    """16 channels of a tile; each sum lives in its own register."""
    weight, bias = call.constants[:2]
    settings, channel = call.attributes, T.bind(block * LANES)
    (rows, columns), (kernel_height, kernel_width) = settings["tile"], settings["kernel"]
    (down, right), (dilation_down, dilation_right) = settings["stride"], settings["dilation"]
    words = column_words(rows, kernel_height, down, dilation_down)
    span = (rows - 1) * down + (kernel_height - 1) * dilation_down + 1

    pixels = {(row, column): T.alloc_buffer((LANES,), "int32") for row in range(rows) for column in range(columns)}
    start = T.bind(bias[T.Ramp(channel, 1, LANES)])
    for sums in pixels.values():
        T.buffer_store(sums, start, [_ALL])
    for at in range((columns - 1) * right + (kernel_width - 1) * dilation_right + 1):
        met = [(c, t) for c in range(columns) for t in range(kernel_width) if c * right + t * dilation_right == at]
        for four in sorted({four for _, four in words} if met else ()):
            word = _interleaved(call, corner, [min(WORD * four + byte, span - 1) for byte in range(WORD)], at, channel)
            for number, (row, its_four) in enumerate(words):
                for column, tap in met if its_four == four else ():
                    sums, weights = pixels[row, column], weight[block, number * kernel_width + tap, T.Ramp(0, 1, BYTES)]
                    T.buffer_store(sums, dot(sums[_ALL], word, weights), [_ALL])
    image, first_row, first_column = corner
    parameters = requantization(call, channel)
    for (row, column), sums in pixels.items():
        finish(call, sums[_ALL], parameters, [image, first_row + row, first_column + column], channel)


def _interleaved(call: Call, corner: list[Expr], rows: list[int], column: int, channel: Expr) -> Expr:
    """Four rows of one input column as 16 words; rows are counted from the first that the tile reads."""
    (down, right), (above, before, _, _) = call.attributes["stride"], call.attributes["padding"]
    image, first_row, first_column = corner
    at = [[image, first_row * down - above + row, first_column * right - before + column] for row in rows]
    shuffled = T.Shuffle([call.inputs[0].load_lanes(position, channel) for position in at], [T.int32(index) for index in _INTERLEAVED])
    return T.bind(T.reinterpret(f"int8x{BYTES}", shuffled))
