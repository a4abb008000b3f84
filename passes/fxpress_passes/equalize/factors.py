"""Inputs of linear layers on calibration data, their weights ==> a factor and a shift for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from torch import Tensor, fx

from .error import rounding

_SAMPLED = 32
"""Rows kept of a batch where the number of batches is not known."""
_LEAST = 1e-5
"""Ranges are counted as at least this share of the largest."""

_WORTH = 0.9
"""Factors have to bring an error down to this share of that without any: below, what is gained is chance."""


@dataclass(frozen=True)
class Channels:
    """What was seen of a value: `low`, `high` (float32, [channels]) and some of its `rows` (float32, [n, channels])."""

    low: Tensor
    high: Tensor
    rows: Tensor

    def merge(self, other: Channels) -> Channels:
        return Channels(self.low.minimum(other.low), self.high.maximum(other.high), torch.cat([self.rows, other.rows]))

    def whole(self) -> Channels:
        """Every channel as wide as the widest reach of all."""
        return Channels(self.low.min().expand_as(self.low), self.high.max().expand_as(self.high), self.rows)

    def clipped(self, percentile: float) -> Channels:
        """With what reaches beyond `percentile` of a channel's values, at both ends, left out of its range; 100 keeps all."""
        if percentile >= 100:
            return self
        ends = torch.tensor([1 - percentile / 100, percentile / 100])
        low, high = torch.quantile(self.rows, ends, dim=0)
        return Channels(low, high, self.rows)


class Observer(fx.Interpreter):
    """Runs a program and keeps what the channels (last dimension) of some values were.

    Args:
        program: in the float stage.
        wanted: the values' names.
        sampled: rows to keep in all.
        batches: how many will come, so that each gives its share; 0 where that is not known.
    """

    def __init__(self, program: Program, wanted: frozenset[str], sampled: int = 512, batches: int = 0) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self.found: dict[str, Channels] = {}
        self._wanted, self._sampled = wanted, sampled
        self._share = max(1, -(-sampled // batches)) if batches else _SAMPLED

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._wanted:
            flat = value.detach().reshape(-1, value.shape[-1])
            old = self.found.get(n.name)
            room = min(self._share, self._sampled - (0 if old is None else len(old.rows)), len(flat))
            picked = torch.linspace(0, len(flat) - 1, max(room, 0)).round().to(torch.int64)
            seen = Channels(flat.amin(0), flat.amax(0), flat[picked].clone())
            self.found[n.name] = seen if old is None else old.merge(seen)
        return value

    def observe(self, batch: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            self.run(*batch)


@dataclass(frozen=True)
class Factors:
    """``x`` becomes ``(x - shift) / scale``; float32, [channels] each."""

    scale: Tensor
    shift: Tensor


def best(
    seen: Channels, weights: Sequence[Tensor], alphas: Sequence[float], shifts: bool, rows: Tensor | None, bits: int
) -> Factors | None:
    """The factors under which the layers' results, inputs and weights quantised, are nearest to what they are; None for none.

    Candidates are SmoothQuant's ``max|x|^alpha / max|w|^(1 - alpha)`` (Xiao et al. 2023, equation 4) at each alpha, on values
    that are centred first where `shifts` (MPTQ-ViT, M184), and centring alone. Channels that share a row get one factor.
    """
    centre = (seen.high + seen.low) / 2 if shifts else torch.zeros_like(seen.low)
    reach = torch.maximum(seen.high - centre, centre - seen.low)
    reach = reach.clamp_min(max(_LEAST * float(reach.max()), 1e-30))
    heaviest = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0)
    heaviest = heaviest.clamp_min(max(_LEAST * float(heaviest.max()), 1e-30))
    if rows is not None:
        centre, reach, heaviest = (_shared(part, rows) for part in (centre, reach, heaviest))
    none = Factors(torch.ones_like(reach), torch.zeros_like(centre))
    candidates = [none, Factors(none.scale, centre)] if shifts else [none]
    for alpha in alphas:
        scale = reach.pow(alpha) / heaviest.pow(1 - alpha)
        candidates.append(Factors(scale / scale.max(), centre))
    errors = [_error(seen, factors, weights, bits) for factors in candidates]
    least = min(range(len(errors)), key=errors.__getitem__)
    return candidates[least] if errors[least] < _WORTH * errors[0] else None


def centred(seen: Channels, weights: Sequence[Tensor], bits: int) -> Factors | None:
    """One shift for all channels, to the middle of the whole value, where that brings the layers' results nearer; None elsewhere."""
    middle = (seen.high.max() + seen.low.min()) / 2
    none = Factors(torch.ones_like(seen.low), torch.zeros_like(seen.low))
    moved = Factors(none.scale, none.shift + middle)
    return moved if _error(seen, moved, weights, bits) < _WORTH * _error(seen, none, weights, bits) else None


def _shared(part: Tensor, rows: Tensor) -> Tensor:
    """The largest of the channels that come from one row, for each of them."""
    largest = torch.full((int(rows.max()) + 1,), float("-inf")).scatter_reduce(0, rows, part, "amax")
    return largest[rows]


def _error(seen: Channels, factors: Factors, weights: Sequence[Tensor], bits: int) -> float:
    """The squared error of the layers' results over their squares, the mean of the rows kept: a few huge rows are not all that counts.

    The mean error is left out: a bias takes it up (correct-bias).
    """
    steps = float((1 << bits - 1) - 1)
    low, high = ((part - factors.shift) / factors.scale for part in (seen.low, seen.high))
    step = max(float(torch.maximum(high, -low).max()) / steps, 1e-30)
    rows = (seen.rows - factors.shift) / factors.scale
    rough = (rows / step).round().clamp(-steps, steps) * step
    total = 0.0
    for weight in weights:
        scaled = weight.detach() * factors.scale
        error = rough @ (scaled + rounding(scaled, bits)).T - rows @ scaled.T
        reference = (seen.rows @ weight.detach().T).square().sum(1)
        total += float(((error - error.mean(0)).square().sum(1) / reference.clamp_min(1e-30)).mean())
    return total
