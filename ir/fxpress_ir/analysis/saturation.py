"""integer program, inputs ==> the share of values that were clamped at the end of their range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..ops import arguments
from ..program import Program

_fxp = torch.ops.fxp


@dataclass(frozen=True)
class Saturation:
    """Values counted and clamped, for each node that clamps and for all of them."""

    nodes: dict[str, tuple[int, int]]

    @property
    def share(self) -> float:
        """Clamped values over all values of clamping nodes."""
        values, clamped = (sum(counts) for counts in zip(*self.nodes.values(), strict=True)) if self.nodes else (0, 0)
        return clamped / values if values else 0.0


class _Counter(fx.Interpreter):
    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.counts: dict[str, tuple[int, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        exact = _UNCLAMPED.get(n.target)
        if exact is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            named = {**arguments(n), **dict(zip(arguments(n), args, strict=False)), **kwargs}
            value: Tensor = exact(named)
            # a lower bound of 0 after a weighted sum or an add is the ReLU itself, not a lack of range
            below = value < named["qmin"] if named["qmin"] < 0 or n.target is _fxp.quantize.default else torch.zeros(())
            clamped = int(below.sum()) + int((value > named["qmax"]).sum())
            before = self.counts.get(n.name, (0, 0))
            self.counts[n.name] = (before[0] + value.numel(), before[1] + clamped)
        return super().run_node(n)


def _rounded(product: Tensor, c: int) -> Tensor:
    return (product + ((1 << (c - 1)) - 1) + ((product >> c) & 1)) >> c


def _requantized(named: dict[str, Any]) -> Tensor:
    x = named["x"].long()
    factors = named["b"].long().reshape([-1 if d == named["axis"] % x.dim() else 1 for d in range(x.dim())])
    return _rounded(x * factors, named["c"])


_UNCLAMPED: dict[Any, Any] = {
    _fxp.quantize.default: lambda named: torch.round(named["x"] / torch.tensor(named["scale"], dtype=torch.float32)),
    _fxp.requantize.default: _requantized,
    _fxp.add.default: lambda named: _rounded(named["x"].long() * named["bx"] + named["y"].long() * named["by"], named["c"]),
}


def saturation(program: Program, *inputs: Tensor) -> Saturation:
    """Count clamped values in one run of an integer program; the lower clamp of a ReLU does not count."""
    counter = _Counter(program)
    with torch.no_grad():
        counter.run(*program.check_inputs(inputs))
    return Saturation(counter.counts)
