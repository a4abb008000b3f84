"""shape of a convolution ==> output pixels and channels that one step of the VNNI kernel keeps in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from .pack import PAIR, WORD, column_words

REGISTERS = 32
"""zmm registers; a tile of p pixels and v vectors holds p * v sums, v weights and one activation word."""

NEON_REGISTERS = 8
"""Fours of the 32 registers of NEON: sums and weights of 16 channels take four."""

WIDENING_REGISTERS = 6
"""The same where weights take twice as many and products of 16 bits two more."""

AVX2_REGISTERS = {"int8": 6, "uint8": 6, "int16": 8}
"""Twos of AVX2's 16 registers, by what is multiplied: the halves of a word of bytes, and their weights, take four registers more."""

THREAD_REGISTERS = 16
"""Of a CUDA thread's 255, so that small batches still give every multiprocessor threads, and each keeps several sums going."""

MMA_ROWS, MMA_DEPTH = 16, 8
"""Rows, and words of depth, of one instruction of CUDA's tensor cores."""


@dataclass(frozen=True)
class Columns:
    """What a depthwise tile has to do with.

    Attributes:
        size: rows that one product takes.
        sums: of 16 channels, that leave registers to weights and interleaved rows.
        interleaving, product, finish: instructions on the vector ports: a word of rows, its products, a requantised sum.
    """

    size: int
    sums: int
    interleaving: int
    product: int
    finish: int


COLUMNS = {"vnni": Columns(WORD, 14, 5, 1, 8), "avx2": Columns(PAIR, 5, 4, 4, 16), "sdot": Columns(WORD, 5, 8, 4, 32)}
"""By the dot products of the target."""

MATRIX_ROWS = {"vnni": 8, "avx2": 6, "sdot": 6, "usdot": 6, "loops": 4}
"""Rows that share a load of a computed matrix: 8 sums hide most of a dot product's latency; sums of 16 channels take two of AVX2's 16
registers, and four of NEON's 32."""

ALTERNATIVES = 6
"""Tiles of an image that are worth a measurement."""

LOOP_ROWS = LOOP_COLUMNS = 4
"""Rows, or pixels, that share one load of weights in the plain loops; from two on the gain is the same on 16 registers and on 32."""


def registers(pixels: int, vectors: int) -> int:
    return pixels * vectors + vectors + 1


def _cycles(pixels: int, vectors: int) -> int:
    """Half-cycles of one step of the inner loop: two dot products and two loads a cycle, five cycles of latency."""
    return max(pixels * vectors, pixels + vectors, 10)


def image_tile(height: int, width: int, vectors: int, available: int = REGISTERS, together: int = 1) -> tuple[int, int, int]:
    """The first of `image_tiles`."""
    return image_tiles(height, width, vectors, available, together)[0]


def image_tiles(height: int, width: int, vectors: int, available: int = REGISTERS, together: int = 1) -> list[tuple[int, int, int]]:
    """(rows, columns, vectors) of the tiles that cover height x width pixels of `vectors` channel vectors soonest.

    Tiles at the far edges are moved back inside, so what they compute twice is counted as waste. Of equally fast tiles
    the one with the fewest steps is taken, then the one with the fewest rows. Their pixels are whole groups of `together`.
    """

    def cost(tile: tuple[int, int, int]) -> tuple[int, int, int]:
        rows, columns, wide = tile
        steps = -(-height // rows) * -(-width // columns) * (vectors // wide)
        return steps * _cycles(rows * columns, wide), steps, rows

    sizes = product(range(1, min(height, 4) + 1), range(1, min(width, REGISTERS) + 1), (1, 2, 3, 4))
    whole = (tile for tile in sizes if vectors % tile[2] == 0 and tile[0] * tile[1] % together == 0)
    fitting = [tile for tile in whole if registers(tile[0] * tile[1], tile[2]) <= available]
    return sorted(fitting, key=cost)[:ALTERNATIVES]


def warp_tile(rows: int, channels: int) -> tuple[int, int] | None:
    """(16s of rows, 8s of channels) that a warp multiplies at a time, for `rows` rows an image; None where they do not fill 16."""
    if rows < MMA_ROWS:
        return None
    return (2 if rows >= 4 * MMA_ROWS else 1), (4 if channels % 32 == 0 else 2)


def column_tile(
    height: int, width: int, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], kind: Columns
) -> tuple[int, int]:
    """(rows, columns) of the tile of a depthwise convolution that covers height x width pixels soonest.

    The rows of a word of each input column are interleaved once, and serve every output pixel that meets them.
    """

    def cost(tile: tuple[int, int]) -> tuple[int, int]:
        rows, columns = tile
        words = column_words(rows, kernel[0], stride[0], dilation[0], kind.size)
        met = {column * stride[1] + tap * dilation[1] for column in range(columns) for tap in range(kernel[1])}
        interleaved = len(met) * len({number for _, number in words})
        steps = -(-height // rows) * -(-width // columns)
        products = len(words) * kernel[1] * columns
        return steps * (kind.interleaving * interleaved + kind.product * products + kind.finish * rows * columns), rows * columns

    sizes = product(range(1, min(height, 4) + 1), range(1, min(width, kind.sums) + 1))
    return min((tile for tile in sizes if tile[0] * tile[1] <= kind.sums), key=cost)


def matrix_tile(vectors: int, available: int = REGISTERS) -> tuple[int, int]:
    """The first of `matrix_tiles`."""
    return matrix_tiles(vectors, available)[0]


def matrix_tiles(vectors: int, available: int = REGISTERS) -> list[tuple[int, int]]:
    """(rows, vectors) of tiles for a matrix product: the most vectors that divide evenly and leave 4 rows, then the most rows."""
    fitting = [wide for wide in (4, 3, 2, 1) if vectors % wide == 0 and registers(4, wide) <= available]
    return [(next(rows for rows in range(14, 0, -1) if registers(rows, wide) <= available), wide) for wide in fitting]
