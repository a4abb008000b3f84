"""program, batches ==> sum of squares of what each weight's column multiplies, per layer; two runs can merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .calibration import Batch

_aten = torch.ops.aten
LAYERS = frozenset(
    {
        *(_aten.linear.default, _aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default),
        *(_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding),
    }
)
"""Layers whose weight is [outputs, inputs / groups, *window]."""


@dataclass(frozen=True, eq=False)
class InputNorm:
    """Of one layer: sums of squares, float64 [groups, inputs / groups, *window], and how many samples they come from."""

    squares: Tensor
    samples: int

    def merge(self, other: InputNorm) -> InputNorm:
        """Of both sets of samples."""
        return InputNorm(self.squares + other.squares, self.samples + other.samples)

    def of_weight(self, outputs: int) -> Tensor:
        """``||X_j||_2`` of the mean sample, float64 in the shape of a weight of so many outputs."""
        norms = (self.squares / self.samples).sqrt()
        return norms.repeat_interleave(outputs // len(norms), 0)


class InputNorms(fx.Interpreter):
    """Runs a program batch by batch and adds up; memory holds the sums and one batch's live values.

    A batch counts whole or not at all: `found`, by node name, is replaced after its last node.
    """

    def __init__(self, program: Program, found: Mapping[str, InputNorm] | None = None) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self.found: Mapping[str, InputNorm] = found or {}
        self._new: dict[str, InputNorm] = {}

    def observe(self, batch: Batch) -> None:
        """Fold one batch in.

        Raises:
            CalibrationError: an input of a layer is NaN or infinite; nothing of the batch is kept.
        """
        self._new = {}
        with torch.no_grad():
            self.run(*batch)
        self.found = {
            **self.found,
            **{name: norm.merge(self.found[name]) if name in self.found else norm for name, norm in self._new.items()},
        }

    def run_node(self, n: fx.Node) -> Any:
        if n.target in LAYERS:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            named = {**arguments(n), **dict(zip(arguments(n), args, strict=False)), **kwargs}
            squares = _sums(n, named, named["input"].double().square())
            if not bool(squares.isfinite().all()):
                raise CalibrationError(
                    "its input is NaN or infinite on calibration data", where=n.name, way_on="check the model and the data"
                )
            self._new[n.name] = InputNorm(squares, len(named["input"]))
        return super().run_node(n)


def _sums(layer: fx.Node, named: Mapping[str, Any], values: Tensor) -> Tensor:
    """Per group and column, the sum of `values` over all places where the layer reads them: a gradient in one row of weights."""
    if layer.target is _aten.linear.default:
        return values.reshape(-1, values.shape[-1]).sum(0, keepdim=True)
    spatial = named["weight"].dim() - 2
    values = values.reshape(-1, *values.shape[-spatial - 1 :]).sum(0, keepdim=True)
    with torch.enable_grad():
        row = torch.zeros(named["groups"], *named["weight"].shape[1:], dtype=torch.float64, requires_grad=True)
        given = {**named, "input": values, "weight": row, "bias": None}
        (sums,) = torch.autograd.grad(layer.target(*given.values()).sum(), row)  # type: ignore[operator]
    return sums
