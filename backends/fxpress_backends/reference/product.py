"""x @ y ==> int32 sums; whole numbers that leave int32 are an error, not a wrap."""

from __future__ import annotations

from typing import Any

import numpy as np
from fxpress_ir.errors import ProgramError
from numpy.typing import NDArray

Array = NDArray[Any]


def accumulator(sums: Array) -> NDArray[np.int32]:
    """Whole numbers as int32; the verifier proved that they fit, so one that does not refutes it."""
    limits = np.iinfo(np.int32)
    if sums.min(initial=0) < limits.min or sums.max(initial=0) > limits.max:
        raise ProgramError("an accumulator leaves int32", way_on="the program was not verified, or the verifier is wrong")
    return sums.astype(np.int32)


def matmul(x: Array, y: Array) -> NDArray[np.int32]:
    """[..., m, k] @ [..., k, n] of 8-bit numbers, whose float64 sums are exact: fewer than 2**37 of 16 bits stay below 2**53."""
    return accumulator(x.astype(np.float64) @ y.astype(np.float64))
