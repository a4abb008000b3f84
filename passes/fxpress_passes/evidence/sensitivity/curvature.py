"""Sensitivity by derivatives: the first or second order of Taylor's series in a choice's change of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ..eigenvalue import top_eigenvalue
from ..gradients import Gradients, own_cross_entropy, samples
from ..hessian_trace import HessianTraces
from .asked import Asked

_SAMPLES = 64
"""Whose gradients are taken one by one for Fisher's information."""
_DRAWS = 16
"""Of random signs, a batch."""
_Cost = Callable[[str, Tensor], float]
"""A tensor's name and what a choice adds to it ==> what that costs."""


def hessian_trace(asked: Asked) -> Mapping[str, float]:
    """sum Tr(H) / n * ||dW||^2 (HAWQ-V2, row M201; the factor 1/2 of the series is dropped, as there)."""
    traces = HessianTraces(asked.program, asked.touched, asked.differentiable, draws=_DRAWS, seed=asked.context.seed)
    for batch in asked.batches:
        traces.observe(batch)
    return _by_size(asked, {name: trace.eigenvalue for name, trace in traces.found.items()})


def eigenvalue(asked: Asked) -> Mapping[str, float]:
    """sum lambda_max(H) / n * ||dW||^2 (HAWQ, row M202: S = lambda / n, here over a choice's change)."""
    tops = {
        name: top_eigenvalue(asked.program, name, asked.batches[:1], asked.differentiable, tolerance=1e-2, most=20, seed=asked.context.seed)
        / asked.program.tensors[name].numel()
        for name in asked.touched
    }
    return _by_size(asked, tops)


def fisher(asked: Asked) -> Mapping[str, float]:
    """sum F * dW^2 / 2, F the mean square of single samples' gradients of the cross-entropy with their own argmax."""
    squares = Gradients(asked.program, asked.touched, "square", own_cross_entropy)
    for sample in samples(asked.program, asked.batches, _SAMPLES):
        squares.observe(sample)
    found = squares.found
    return _each(asked, lambda name, change: float((found[name].double() * change.double().square()).sum()) / 2)


def taylor(asked: Asked) -> Mapping[str, float]:
    """|sum g * dW|, g the mean gradient of the cross-entropy with the program's own argmax."""
    means = Gradients(asked.program, asked.touched, "mean", own_cross_entropy)
    for batch in asked.batches:
        means.observe(batch)
    found = means.found
    return _each(asked, lambda name, change: abs(float((found[name].double() * change.double()).sum())))


def weight_error(asked: Asked) -> Mapping[str, float]:
    """||dW||^2 / ||W||^2: no data; what bits alone say."""
    tensors = asked.program.tensors
    return _each(asked, lambda name, change: float(change.double().square().sum() / tensors[name].detach().double().square().sum()))


def _by_size(asked: Asked, factors: Mapping[str, float]) -> dict[str, float]:
    return _each(asked, lambda name, change: factors[name] * float(change.double().square().sum()))


def _each(asked: Asked, cost: _Cost) -> dict[str, float]:
    found = {}
    for position, one in enumerate(asked.perturbations):
        found[one.name] = sum(cost(name, change) for name, change in asked.changes(one).items())
        asked.tell(position + 1, len(asked.perturbations))
    return found
