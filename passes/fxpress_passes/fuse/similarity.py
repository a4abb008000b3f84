"""what blocks give on calibration data ==> how alike each two of them are, from 0 to 1, and runs of the most alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block
from fxpress_ir.errors import CalibrationError
from torch import Tensor

from ..evidence import Calibration
from .probe import features, probe, vectors

SIMILARITIES = ("cca", "cka")
ROWS = 1024
"""The most vectors that are compared, or `PER_FEATURE` for each of their features where that is more and the similarity is ``cca``."""
PER_FEATURE = 4
"""With as many vectors as features everything correlates with everything."""


def linear_cka(one: Tensor, other: Tensor) -> float:
    """||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred rows, X [n, p] and Y [n, q] (Kornblith et al. 2019, eq. 3).

    1 for X and any rotation or multiple of it; 1 too where both are constant, 0 where one is.
    """
    x, y = (rows.double() - rows.double().mean(0) for rows in (one, other))
    sizes = (_inner(x, x) * _inner(y, y)) ** 0.5
    return _inner(x, y) / sizes if sizes else float(not x.any() and not y.any())


def squared_cca(one: Tensor, other: Tensor) -> float:
    """The mean of the squared canonical correlations of rows: linear CKA of what is whitened first, so that small directions count, too.

    1 for X and any invertible affine map of it.
    """
    return linear_cka(_whitened(one), _whitened(other))


def output_similarity(kind: str, program: Program, blocks: Sequence[Block], data: Calibration, generator: torch.Generator) -> Tensor:
    """How alike the values are that each two blocks of a row give, float64 [blocks, blocks]; vectors are drawn from all batches alike.

    Args:
        kind: ``cca`` or ``cka``.

    Raises:
        CalibrationError: there are too few vectors for ``cca``.
    """
    module, width = probe(program, [block.output.name for block in blocks]), _width(blocks[0])
    wanted = max(ROWS, PER_FEATURE * width) if kind == "cca" else ROWS
    share = -(-wanted // len(data))
    kept: list[list[Tensor]] = [[] for _ in blocks]
    with torch.no_grad():
        for batch in data.batches(program):
            found = [vectors(value, features(block)) for block, value in zip(blocks, module(*batch), strict=True)]
            places = torch.randperm(len(found[0]), generator=generator)[:share]
            for values, value in zip(kept, found, strict=True):
                values.append(value[places])
    rows = [torch.cat(values) for values in kept]
    if kind == "cca" and len(rows[0]) < PER_FEATURE * width:
        what = f"the data have {len(rows[0])} vectors of {width} features for similarity=cca"
        raise CalibrationError(what, where="share-blocks", way_on=f"give {PER_FEATURE * width} or more, or similarity=cka")
    if kind == "cca":
        rows = list(map(_whitened, rows))
    return torch.tensor([[linear_cka(one, other) for other in rows] for one in rows], dtype=torch.float64)


def contiguous_clusters(similarities: Sequence[Tensor], merges: int) -> list[list[range]]:
    """Each row's runs of neighbours after so many merges of the two neighbours, of all rows, whose members are most alike on average.

    Args:
        similarities: of each row [n, n], symmetric.
        merges: at most the number of pairs of neighbours.
    """
    rows = [[range(place, place + 1) for place in range(len(similarity))] for similarity in similarities]
    for _ in range(merges):
        linked = {
            (row, place): float(similarity[a.start : a.stop, b.start : b.stop].mean())
            for row, (runs, similarity) in enumerate(zip(rows, similarities, strict=True))
            for place, (a, b) in enumerate(pairwise(runs))
        }
        row, place = max(linked, key=linked.__getitem__)  # the first among equals
        rows[row][place : place + 2] = [range(rows[row][place].start, rows[row][place + 1].stop)]
    return rows


def _width(block: Block) -> int:
    return int(block.output.meta["val"].shape[features(block)])


def _inner(x: Tensor, y: Tensor) -> float:
    """||Y^T X||^2, by the smaller of the products."""
    if len(x) < min(x.shape[1], y.shape[1]):
        return float(((x @ x.T) * (y @ y.T)).sum())
    return float((y.T @ x).square().sum())


def _whitened(rows: Tensor) -> Tensor:
    """An orthonormal basis of the centred columns, [n, rank]."""
    rows = rows.double() - rows.double().mean(0)
    basis, sizes, _ = torch.linalg.svd(rows, full_matrices=False)
    return basis[:, sizes > sizes.max() * max(rows.shape) * torch.finfo(torch.float64).eps] if sizes.any() else rows[:, :0]
