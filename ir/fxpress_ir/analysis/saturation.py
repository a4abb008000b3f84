"""integer program, inputs ==> the share of values that were clamped at the end of their range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..ops import LEAST_SCORE, arguments
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
        if n.target in _CLAMPING:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            named = {**arguments(n), **dict(zip(arguments(n), args, strict=False)), **kwargs}
            # a lower bound of 0 after a weighted sum or an add is the ReLU itself, not a lack of range
            low = named["qmin"] if named["qmin"] < 0 or n.target is _fxp.quantize.default else None
            self._count(n.name, _unclamped(n.target, named), low, named["qmax"])
            if n.target is _fxp.attention.default:
                self._count(f"{n.name}.scores", _scores(named), LEAST_SCORE, _LARGEST_SCORE)
        return super().run_node(n)

    def _count(self, name: str, value: Tensor, low: int | None, high: int) -> None:
        clamped = int((value > high).sum()) + (0 if low is None else int((value < low).sum()))
        before = self.counts.get(name, (0, 0))
        self.counts[name] = (before[0] + value.numel(), before[1] + clamped)


def _unclamped(target: Any, named: dict[str, Any]) -> Tensor:
    """What the operator gives with the bounds of 32 bits, which its verified value never reaches."""
    if target is _fxp.quantize.default:
        return torch.round(named["x"] / torch.tensor(named["scale"], dtype=torch.float32))
    result: Tensor = target(*{**named, **_WIDE}.values())
    return result


def _scores(named: dict[str, Any]) -> Tensor:
    """The scores of an attention that are seen, before their clamp, in one dimension."""
    sums = _fxp.matmul(named["q"], named["k"].transpose(-1, -2))
    sums = sums if named["bias"] is None else sums + named["bias"]
    scores = _fxp.requantize(sums, torch.tensor([named["b"]], dtype=torch.int32), named["c"], _WIDE["qmin"], _WIDE["qmax"], -1, torch.int32)
    seen = torch.ones_like(scores, dtype=torch.bool) if named["mask"] is None else named["mask"].expand_as(scores)
    result: Tensor = scores[seen.tril() if named["causal"] else seen]
    return result


_LARGEST_SCORE = 127
_WIDE = {"qmin": -(1 << 31), "qmax": (1 << 31) - 1, "dtype": torch.int32}
_CLAMPING = frozenset(
    {
        *(_fxp.quantize.default, _fxp.requantize.default, _fxp.add.default),
        *(_fxp.affine.default, _fxp.rotary.default, _fxp.attention.default),
    }
)


def saturation(program: Program, *inputs: Tensor) -> Saturation:
    """Count clamped values in one run of an integer program; the lower clamp of a ReLU does not count."""
    counter = _Counter(program)
    with torch.no_grad():
        counter.run(*program.check_inputs(inputs))
    return Saturation(counter.counts)
