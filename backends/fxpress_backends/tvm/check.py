"""compiled float functions ==> an error where they give something else than PyTorch, before anybody runs them.

TVM's importer takes some operators, or some of their arguments, for others without a word: only running them tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from fxpress_ir import Dimension, Program
from fxpress_ir.analysis.sizes import concrete_size
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray

from fxpress_backends.conformance import drawn
from fxpress_backends.reexport import Part

from .run import machine

RTOL = 1e-4
"""Of the largest value: float32 sums of thousands of products in another order."""
FALLEN = 1e-4
"""The share of values that may differ by more: rounding, comparing and sorting floats goes the other way where they are nearly equal."""


def check(program: Program, parts: Mapping[str, Part], library: Path) -> None:
    """Run each function at two sizes of the dynamic dimensions, on inputs from a fixed seed.

    Raises:
        BackendError: a result has another type, shape or values; the message names the node.
    """
    functions = machine(library)
    for name, part in parts.items():
        for sizes in _sizes(program):
            generator = np.random.default_rng(0)
            values = [node.meta["val"] for node in part.inputs]
            inputs = [drawn(value, tuple(concrete_size(size, sizes) for size in value.shape), generator) for value in values]
            with torch.no_grad():
                expected = part.module(*map(torch.from_numpy, inputs))
            found = functions[name](*map(tvm.runtime.tensor, inputs))
            for node, wanted, result in zip(part.outputs, expected, found, strict=True):
                difference = _difference(wanted.numpy(), result.numpy())
                if difference:
                    what, way_on = f"TVM computes something else than PyTorch: {difference}", "lower it to another target"
                    raise BackendError(what, where=node.name, way_on=way_on)


def _sizes(program: Program) -> Iterator[dict[str, int]]:
    """The symbols at their least numbers, then at larger ones; once where there are none."""
    names = program.symbols()
    dimensions = {size.name: size for spec in program.inputs for size in spec.shape if isinstance(size, Dimension)}
    yield {symbol: dimensions[name].minimum for symbol, name in names.items()}
    if names:
        yield {symbol: _larger(dimensions[name]) for symbol, name in names.items()}


def _larger(dimension: Dimension) -> int:
    larger = dimension.minimum + 2
    return larger if dimension.admits(larger) else dimension.maximum or larger


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> str:
    """How a result differs; nothing where it does not."""
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return f"{found.dtype}{list(found.shape)} for {expected.dtype}{list(expected.shape)}"
    with np.errstate(invalid="ignore"):
        gaps = np.where(expected == found, 0, np.abs(expected.astype(np.float64) - found))
    gaps[np.isnan(expected) & np.isnan(found)] = 0
    finite = expected[np.isfinite(expected)].astype(np.float64)
    most = float(np.abs(finite).max(initial=0))
    far = ~(gaps <= RTOL * most)
    return "" if far.sum() <= FALLEN * far.size else f"{far.mean():.1%} of its values differ, by up to {np.nanmax(gaps):.3g} of {most:.3g}"
