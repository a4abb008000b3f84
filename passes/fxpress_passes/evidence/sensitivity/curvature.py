"""Sensitivity by derivatives: the first or second order of Taylor's series in a choice's change of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from ..calibration import Batch
from ..eigenvalue import top_eigenvalue
from ..gradients import Gradients, Statistic, own_cross_entropy, samples
from ..tally import Tally
from .asked import Asked
from .kept import means, weights_key

_SAMPLES = 64
"""Whose gradients are taken one by one for Fisher's information."""
_DRAWS = 16
"""Of random signs, a batch."""
_TOLERANCE, _ITERATIONS = 1e-2, 20
"""Of the power iteration."""


def hessian_trace(asked: Asked) -> Mapping[str, float]:
    """sum Tr(H) / n * ||dW||^2 (HAWQ-V2, row M201; the factor 1/2 of the series is dropped, as there)."""

    def done(batches: int) -> None:
        asked.tell(batches, len(asked.batches))

    evidence, seed = asked.context.evidence, asked.context.seed
    traces = evidence.traces(asked.program, asked.loss, seed, asked.touched, draws=_DRAWS, most=asked.most, done=done)
    return _by_size(asked, {name: trace.eigenvalue for name, trace in traces.items()})


def eigenvalue(asked: Asked) -> Mapping[str, float]:
    """sum lambda_max(H) / n * ||dW||^2 (HAWQ, row M202: S = lambda / n, here over a choice's change)."""
    program, loss, seed = asked.program, asked.differentiable, asked.context.seed

    def costs(names: list[str], batch: Batch, _: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
        for name in names:
            yield name, Tally(1, top_eigenvalue(program, name, [batch], loss, tolerance=_TOLERANCE, most=_ITERATIONS, seed=seed))

    what = f"largest of {asked.loss}, seed {seed}, {_ITERATIONS} iterations to {_TOLERANCE:g}"
    silent, tops = replace(asked, context=replace(asked.context, progress=None)), dict[str, float]()
    for position, name in enumerate(asked.touched):  # one by one, so that those before an interruption are kept
        tops |= means(silent, what, [name], costs, kind="eigenvalues", most=1)
        asked.tell(position + 1, len(asked.touched))
    return _by_size(asked, {name: top / program.tensors[name].numel() for name, top in tops.items()})


def fisher(asked: Asked) -> Mapping[str, float]:
    """sum F * dW^2 / 2, F the mean square of single samples' gradients of the cross-entropy with their own argmax."""
    return _by_gradients(asked, "square", lambda squares, change: float((squares * change.square()).sum()) / 2)


def taylor(asked: Asked) -> Mapping[str, float]:
    """|sum g * dW|, g the mean gradient of the cross-entropy with the program's own argmax."""
    return _by_gradients(asked, "mean", lambda gradient, change: float((gradient * change).sum()))


def weight_error(asked: Asked) -> Mapping[str, float]:
    """||dW||^2 / ||W||^2: no data; what bits alone say."""
    tensors, found = asked.program.tensors, dict[str, float]()
    for position, one in enumerate(asked.perturbations):
        changes = asked.changes(one).items()
        found[one.name] = sum(_energy(change) / _energy(tensors[name].detach()) for name, change in changes)
        asked.tell(position + 1, len(asked.perturbations))
    return found


def _by_gradients(asked: Asked, statistic: Statistic, cost: Callable[[Tensor, Tensor], float]) -> dict[str, float]:
    """The sum over a choice's tensors of the magnitude of the mean cost, by a sum of statistics and a change, both float64.

    Memory holds the gradients and their sums over one batch; squares are of single samples, the first `_SAMPLES`.
    """
    parts = {one.name: {weights_key({name: change}): name for name, change in asked.changes(one).items()} for one in asked.perturbations}
    of = {key: (one, name) for one in asked.perturbations for key, name in parts[one.name].items()}

    def costs(keys: list[str], batch: Batch, found: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
        names = {of[key][1] for key in keys}
        gradients = Gradients(asked.program, [name for name in asked.touched if name in names], statistic, own_cross_entropy)
        seen = found[keys[0]].count if found else 0
        for sample in samples(asked.program, [batch], _SAMPLES - seen) if statistic == "square" else [batch]:
            gradients.observe(sample)
        for key in keys:
            one, name = of[key]
            yield key, Tally(gradients.samples, cost(gradients.sums[name].double(), asked.changes(one)[name].double()))

    what = f"{statistic} of gradients, {_SAMPLES} samples at most" if statistic == "square" else f"{statistic} of gradients"
    found = means(asked, what, of, costs)
    return {name: sum(abs(found[key]) for key in own) for name, own in parts.items()}


def _by_size(asked: Asked, factors: Mapping[str, float]) -> dict[str, float]:
    return {one.name: sum(factors[name] * _energy(change) for name, change in asked.changes(one).items()) for one in asked.perturbations}


def _energy(values: Tensor) -> float:
    return float(values.double().square().sum())
