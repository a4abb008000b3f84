"""conv2d as an implicit matrix product: taps are offsets into an NHWC image whose halo is its padding, so nothing is copied.

With dilation 1 the taps of one kernel row are neighbours in memory: one run of ``kernel width * channels`` elements, read as words
of several. A group of channels takes part of each pixel; the vectors of a tile belong to one group.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .avx2 import pair_tile
from .mmla import MatrixTile
from .operand import Call, fill_halo
from .sdot import SignedTile
from .smull import WideningTile
from .vnni import Tile


def conv2d_vnni(call: Call) -> None:
    convolve(call, Tile)


def conv2d_sdot(call: Call) -> None:
    convolve(call, SignedTile)


def conv2d_smull(call: Call) -> None:
    convolve(call, WideningTile)


def conv2d_mmla(call: Call) -> None:
    convolve(call, MatrixTile)


def conv2d_avx2(call: Call) -> None:
    convolve(call, pair_tile(call))


def convolve(call: Call, kind: type[Tile]) -> None:
    """Tasks are channel blocks x images x rows of tiles, channels outermost so that a thread keeps its weights in cache."""
    source, output, settings = call.inputs[0], call.output, call.attributes
    height, width = output.spec.pixels
    tile_rows, tile_columns, vectors = settings["tile"]
    stride_down, stride_right = settings["stride"]
    kernel_height, kernel_width = settings["kernel"]
    dilation_down, dilation_right = settings["dilation"]

    pixel_words = source.spec.channels // kind.word
    row_words = (source.image_elements // kind.word) // (source.spec.middle[0] if source.spec.middle else 1)
    top, left = (have - used for have, used in zip(source.spec.halo[:2], settings["padding"][:2], strict=True))
    group_words = settings["group_inputs"] // kind.word if "group_inputs" in settings else pixel_words
    dense = dilation_right == 1 and group_words == pixel_words
    runs = 1 if dense else kernel_width
    run_words = group_words * (kernel_width if dense else 1)

    fill_halo(output)
    words = kind.words(source)
    row_blocks, column_blocks = -(-height // tile_rows), -(-width // tile_columns)
    image_words = source.image_elements // kind.word
    pixels = [(row, column) for row in range(tile_rows) for column in range(tile_columns)]
    with T.parallel(output.spec.channels // LANES // vectors * (output.lead * row_blocks)) as task:
        first_vector = T.bind(task // (output.lead * row_blocks) * vectors)
        image = T.bind(task % (output.lead * row_blocks) // row_blocks)
        first_row = T.bind(T.min(task % row_blocks * tile_rows, height - tile_rows))
        with T.serial(column_blocks) as block:
            first_column = T.bind(T.min(block * tile_columns, width - tile_columns))
            tile = kind(call, len(pixels), vectors, first_vector)
            corner = (first_row * stride_down + top) * row_words + (first_column * stride_right + left) * pixel_words
            group = first_vector * LANES // settings["group_outputs"] if "group_outputs" in settings else 0
            start = T.bind(image * image_words + corner + group * group_words)
            # the last tile of a row has itself for the next one
            to_next = (T.min((block + 1) * tile_columns, width - tile_columns) - first_column) * (stride_right * pixel_words)
            with T.serial(kernel_height) as tap, T.serial(runs) as run, T.serial(run_words) as word:
                here = T.bind(start + tap * (dilation_down * row_words) + run * (dilation_right * pixel_words) + word)
                offsets = [row * stride_down * row_words + column * stride_right * pixel_words for row, column in pixels]
                depth = (tap * runs + run) * run_words + word
                tile.ahead(words, [here + to_next + offset for offset in offsets], depth, word)
                tile.step(words, [here + offset for offset in offsets], depth)
            tile.finish([[image, first_row + row, first_column + column] for row, column in pixels])
