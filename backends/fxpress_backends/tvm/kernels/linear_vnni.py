"""linear as tiles of rows x channels; rows that do not fill a tile are done one by one."""

from __future__ import annotations

from math import prod

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .operand import Call, Expr
from .pairs import PairTile
from .sdot import SignedTile
from .vnni import Tile


def linear_vnni(call: Call) -> None:
    _linear(call, Tile)


def linear_pairs(call: Call) -> None:
    _linear(call, PairTile)


def linear_sdot(call: Call) -> None:
    _linear(call, SignedTile)


def _linear(call: Call, kind: type[Tile]) -> None:
    """Tasks are channel blocks; each walks all rows, so that its weights are read once from memory."""
    (source,), output = call.inputs, call.output
    tile_rows, vectors = call.attributes["tile"]
    words = source.words()
    depth = source.spec.channels // kind.word
    count = output.lead * prod(output.outer)

    def rows(first: Expr, height: int, first_vector: Expr) -> None:
        tile = kind(call, height, vectors, first_vector)
        with T.serial(depth) as word:
            tile.step(words, [(first + row) * depth + word for row in range(height)], word)
        tile.finish([indices(first + row, output.outer) for row in range(height)])

    with T.parallel(output.spec.channels // LANES // vectors) as block:
        with T.serial(count // tile_rows) as tile:
            rows(tile * tile_rows, tile_rows, block * vectors)
        with T.serial(count % tile_rows) as row:
            rows(count // tile_rows * tile_rows + row, 1, block * vectors)


def indices(row: Expr, extents: tuple[Expr, ...]) -> list[Expr]:
    """The outer indices of a row counted over all of them."""
    indices: list[Expr] = []
    for extent in reversed(extents):
        indices.insert(0, row % extent)
        row = row // extent
    return [row, *indices]
