"""Program ==> inputs and the outputs that they give, to travel with an artifact, be run again anywhere and be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fxpress_ir import Dimension, Program
from fxpress_ir.errors import ArtifactError
from fxpress_ir.ops import arguments
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

FILE = "conformance.safetensors"
RTOL = 1e-4
"""Of a float artifact's outputs: max abs difference <= RTOL * max abs value; another CPU's kernels add in another order."""
STEPS = 0.02
"""The same where floats are quantised on the way: next to a tie the last bit decides the step, one of 255, and what follows from it."""
_quantize = torch.ops.fxp.quantize.default


def write(program: Program, folder: Path) -> dict[str, Any]:
    """Save one set of inputs (dynamic dimensions at their least size) and the program's outputs for it.

    Inputs come from a fixed seed. Floats that the program quantises fill their range and a tenth beyond it on both sides;
    other floats are standard normal; 8-bit and 16-bit integers fill their type, wider ones are 0 or 1.

    Returns:
        What the manifest records: the file, the names of inputs and outputs, and whether outputs have to be the same bits.
    """
    generator = np.random.default_rng(0)
    least = {size.name: size.minimum for spec in program.inputs for size in spec.shape if isinstance(size, Dimension)}
    shapes = [value.shape for value in program.example(**least)]
    inputs = {
        f"input.{position}.{spec.name}": _drawn(program, position, tuple(shape), generator)
        for position, (spec, shape) in enumerate(zip(program.inputs, shapes, strict=True))
    }
    found = program.run(*map(torch.from_numpy, inputs.values()))
    outputs = {f"output.{position}": np.ascontiguousarray(value.numpy()) for position, value in enumerate(found)}
    save_file({**inputs, **outputs}, folder / FILE)
    return {"file": FILE, "inputs": list(inputs), "outputs": list(outputs), "exact": program.stage == "integer"}


def drawn(value: Tensor, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[Any]:
    """Numbers of the type of `value`: floats standard normal, 8-bit and 16-bit integers over all of it, wider ones 0 or 1."""
    dtype = str(value.dtype).removeprefix("torch.")
    if value.is_floating_point():
        return generator.standard_normal(shape).astype(dtype)
    if value.element_size() <= 2 and value.dtype != torch.bool:
        limits = torch.iinfo(value.dtype)
        return generator.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _drawn(program: Program, position: int, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[Any]:
    node = program.placeholders()[position]
    value: Tensor = node.meta["val"]
    borders = [arguments(user) for user in node.users if user.target is _quantize] if value.is_floating_point() else []
    if not borders:
        return drawn(value, shape, generator)
    low, high = (1.1 * borders[0][bound] * borders[0]["scale"] for bound in ("qmin", "qmax"))
    return generator.uniform(low, high, shape).astype(str(value.dtype).removeprefix("torch."))


def vectors(folder: Path, manifest: Mapping[str, Any]) -> tuple[list[NDArray[Any]], dict[str, NDArray[Any]], float]:
    """The inputs, the outputs that they have to give by name, and the tolerance: 0 where the bits have to be the same.

    Raises:
        ArtifactError: the record or its file is malformed.
    """
    try:
        record = manifest["conformance"]
        tensors = load_file(folder / record["file"])
        inputs = [tensors[name] for name in record["inputs"]]
        wanted = {name: tensors[name] for name in record["outputs"]}
        exact = bool(record["exact"])
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        what, where = "its conformance record is malformed", f"artifact {str(folder)!r}"
        raise ArtifactError(what, where=where, way_on="lower the program again") from error
    quantised = manifest["stage"] in ("simulated", "mixed")
    return inputs, wanted, 0.0 if exact else STEPS if quantised else RTOL


def compared(expected: NDArray[Any], found: NDArray[Any], rtol: float) -> tuple[bool, str]:
    """Whether a result is right, and what was seen; the same bits where nothing may differ."""
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return False, f"{found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
    if not rtol:
        same = expected.tobytes() == found.tobytes()
        different = int((expected != found).sum())
        return same, "same bits" if same else f"{different} of {expected.size} values differ"
    gap, most = (float(np.abs(value).max(initial=0.0)) for value in (found.astype(np.float64) - expected, expected.astype(np.float64)))
    return gap <= rtol * most, f"differs by {gap:.3g}, largest value {most:.3g}"
