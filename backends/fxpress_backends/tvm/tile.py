"""shape of a convolution ==> output pixels and channels that one step of the VNNI kernel keeps in registers."""

from __future__ import annotations

from itertools import product

REGISTERS = 32
"""zmm registers; a tile of p pixels and v vectors holds p * v sums, v weights and one activation word."""

LOOP_COLUMNS = 4
"""Pixels that share one load of weights in the plain loops; from two on the gain is the same on 16 registers and on 32."""


def registers(pixels: int, vectors: int) -> int:
    return pixels * vectors + vectors + 1


def _cycles(pixels: int, vectors: int) -> int:
    """Half-cycles of one step of the inner loop: two dot products and two loads a cycle, five cycles of latency."""
    return max(pixels * vectors, pixels + vectors, 10)


def image_tile(height: int, width: int, vectors: int) -> tuple[int, int, int]:
    """(rows, columns, vectors) of the tile that covers height x width pixels of `vectors` channel vectors soonest.

    Tiles at the far edges are moved back inside, so what they compute twice is counted as waste. Of equally fast tiles
    the one with the fewest steps is taken, then the one with the fewest rows.
    """

    def cost(tile: tuple[int, int, int]) -> tuple[int, int, int]:
        rows, columns, wide = tile
        steps = -(-height // rows) * -(-width // columns) * (vectors // wide)
        return steps * _cycles(rows * columns, wide), steps, rows

    sizes = product(range(1, min(height, 4) + 1), range(1, min(width, REGISTERS) + 1), (1, 2, 3, 4))
    fitting = [tile for tile in sizes if vectors % tile[2] == 0 and registers(tile[0] * tile[1], tile[2]) <= REGISTERS]
    return min(fitting, key=cost)


def matrix_tile(vectors: int) -> tuple[int, int]:
    """(rows, vectors) of the tile for a matrix product: as many vectors as divide evenly, then as many rows as fit."""
    wide = next(count for count in (4, 3, 2, 1) if vectors % count == 0)
    return next(rows for rows in range(14, 0, -1) if registers(rows, wide) <= REGISTERS), wide
