"""linear as tiles of rows x channels; rows that do not fill a tile are done by as few as an instruction takes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .avx2 import pair_tile
from .mmla import MatrixTile
from .nibbles import NibbleTile
from .operand import Call, Expr
from .pairs import PairTile
from .sdot import SignedTile
from .smull import WideningTile
from .vnni import Tile


def linear_vnni(call: Call) -> None:
    linear_by_tiles(call, Tile)


def linear_nibbles(call: Call) -> None:
    linear_by_tiles(call, NibbleTile)


def linear_pairs(call: Call) -> None:
    linear_by_tiles(call, PairTile)


def linear_sdot(call: Call) -> None:
    linear_by_tiles(call, SignedTile)


def linear_smull(call: Call) -> None:
    linear_by_tiles(call, WideningTile)


def linear_mmla(call: Call) -> None:
    linear_by_tiles(call, MatrixTile)


def linear_avx2(call: Call) -> None:
    linear_by_tiles(call, pair_tile(call))


def linear_by_tiles(call: Call, kind: type[Tile]) -> None:
    """Tasks are channel blocks; each walks all rows, so that its weights are read once from memory."""
    (source,), output = call.inputs, call.output
    tile_rows, vectors = call.attributes["tile"]
    words = kind.words(source)
    pitch, depth = source.spec.channels // kind.word, int(call.constants[0].shape[1])
    count = output.lead * prod(output.outer)

    def tile(rows: Sequence[Expr], first_vector: Expr, following: Sequence[Expr] = ()) -> None:
        sums = kind(call, len(rows), vectors, first_vector)
        with T.serial(depth) as word:
            sums.ahead(words, [row * pitch + word for row in following], word, word)
            sums.step(words, [row * pitch + word for row in rows], word)
        sums.finish([indices(row, output.outer) for row in rows])

    with T.parallel(output.spec.channels // LANES // vectors) as block:
        with T.serial(count // tile_rows) as step:
            following = T.min((step + 1) * tile_rows, count - tile_rows)
            here, there = ([start + row for row in range(tile_rows)] for start in (step * tile_rows, following))
            tile(here, block * vectors, there)
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
