"""real numbers ==> the integers that a program takes, x / scale; the integers that it gives ==> real numbers, q * scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .program import Program
from .signature import InputSpec

_fxp = torch.ops.fxp


def to_steps(inputs: Sequence[InputSpec], values: Sequence[Any]) -> tuple[Tensor, ...]:
    """Floats for inputs that take integers in steps become the nearest of them (half to even, clamped to the input's type).

    Args:
        inputs: a program's or an artifact's signature.
        values: tensors or arrays; what is no float, or is for an input without a scale, passes as it is.

    Raises:
        InputError: another number of values than of inputs; NaN or infinity, which no integer stands for.
    """
    if len(values) != len(inputs):
        raise InputError(f"{len(values)} inputs given, {len(inputs)} expected", way_on=f"pass {', '.join(map(str, inputs))}")
    return tuple(_steps(spec, torch.as_tensor(value)) for spec, value in zip(inputs, values, strict=True))


def _steps(spec: InputSpec, value: Tensor) -> Tensor:
    if spec.scale is None or not value.is_floating_point():
        return value
    if not bool(torch.isfinite(value).all()):
        raise InputError("holds NaN or infinity", where=f"input {spec.name!r}", way_on="an integer has no such value")
    limits = torch.iinfo(spec.dtype)
    result: Tensor = _fxp.quantize(value, spec.scale, limits.min, limits.max, spec.dtype)
    return result


def to_reals(scales: Sequence[float | None], outputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """Outputs in float32 where they are given in steps, as they are elsewhere.

    Args:
        scales: a program's ``output_steps()``, an artifact's `output_scales`.
    """
    return tuple(
        value if scale is None else _fxp.dequantize(value, scale)
        for value, scale in zip(map(torch.as_tensor, outputs), scales, strict=True)
    )


def run_on_reals(program: Program, *values: Any) -> tuple[Tensor, ...]:
    """``program.run`` with floats at its ends, whether or not it has float borders itself."""
    return to_reals(program.output_steps(), program.run(*to_steps(program.inputs, values)))
