"""linear as tiles of rows x channels; rows that do not fill a tile are done by as few as an instruction takes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .avx2 import pair_tile
from .mmla import MatrixTile
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


def linear_mmla(call: Call) -> None:
    _linear(call, MatrixTile)


def linear_avx2(call: Call) -> None:
    _linear(call, pair_tile(call))


def _linear(call: Call, kind: type[Tile]) -> None:
    """Tasks are channel blocks; each walks all rows, so that its weights are read once from memory."""
    (source,), output = call.inputs, call.output
    tile_rows, vectors = call.attributes["tile"]
    words = kind.words(source)
    depth = source.spec.channels // kind.word
    count = output.lead * prod(output.outer)

    def tile(rows: Sequence[Expr], first_vector: Expr) -> None:
        sums = kind(call, len(rows), vectors, first_vector)
        with T.serial(depth) as word:
            sums.step(words, [row * depth + word for row in rows], word)
        sums.finish([indices(row, output.outer) for row in rows])

    with T.parallel(output.spec.channels // LANES // vectors) as block:
        with T.serial(count // tile_rows) as step:
            tile([step * tile_rows + row for row in range(tile_rows)], block * vectors)
        with T.serial((count % tile_rows + (kind.together - 1)) // kind.together) as step:
            first = count // tile_rows * tile_rows + step * kind.together
            # the last row is repeated where it has no neighbour
            tile([first, *(T.bind(T.min(first + row, count - 1)) for row in range(1, kind.together))], block * vectors)


def indices(row: Expr, extents: tuple[Expr, ...]) -> list[Expr]:
    """The outer indices of a row counted over all of them."""
    indices: list[Expr] = []
    for extent in reversed(extents):
        indices.insert(0, row % extent)
        row = row // extent
    return [row, *indices]
