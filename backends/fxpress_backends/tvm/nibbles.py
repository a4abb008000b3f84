"""linear ==> whether its weights stay at 4 bits in memory, until registers, or are expanded to bytes when the artifact is opened."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .physical import Buffer
from .tile import REGISTERS

SHIFT = 4
"""Bits of a weight; sums are of so many bits more than what they stand for."""
NIBBLE_REGISTERS = REGISTERS - 5
"""What tiles may take of them: four vectors of packed weights and a mask are held beside."""
FEWEST_BYTES = 1 << 21
"""Of weights as bytes: as many as a core's second level of cache has on the CPUs with VNNI (1 to 2 MiB). More of them come from
memory or the third level in each run, at a tenth of the speed at which dot products take them: half the bytes then take half the
time."""
MOST_ROWS = 4
"""Weights are read once for a tile of rows, and split once for it. Where there are more rows than this the products, not the bytes,
take the time, and splitting comes on top of them."""


def fits(weight: NDArray[Any], bias: NDArray[np.int32]) -> bool:
    """Weights [oc, ic] of 4 bits, whose sums with any bytes, and the bias [oc or more] folded for them, fit 28 bits."""
    if weight.size == 0 or weight.min() < -(1 << (SHIFT - 1)) or weight.max() >= 1 << (SHIFT - 1):
        return False
    most = np.abs(weight.astype(np.int64)).sum(1) * 255 + np.abs(bias[: len(weight)].astype(np.int64))
    return int(most.max()) << SHIFT < 1 << 31


def pays(source: Buffer, result: Buffer) -> bool:
    """Few rows, known where the plan is made, by many weights."""
    rows = (result.lead, *result.outer)
    known = [size for size in rows if isinstance(size, int)]
    return len(known) == len(rows) and prod(known) <= MOST_ROWS and source.channels * result.channels >= FEWEST_BYTES


def nibbles_of_words(words: NDArray[np.int8]) -> NDArray[np.int8]:
    """[oc / 16, words, 64] of 4 bits ==> [oc / 16, words / 2, 64]: even words in the lower halves of bytes, odd ones in the upper."""
    halves = words.view(np.uint8)
    return np.ascontiguousarray((halves[:, ::2] & 15) | (halves[:, 1::2] << 4)).view(np.int8)
