"""measured groups ==> seconds of programs that were never measured: known groups as they are, others from how much there is to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from fxpress_backends.profile import RUNTIME, signatures
from fxpress_backends.work import sizes_at
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from numpy.typing import NDArray
from scipy.optimize import nnls

from .measured import GroupCosts, costs_of
from .work import Measure, Work

_LEAST = 1e-7
"""Seconds below which errors are held to be equal: no clock tells such times apart."""
Row = tuple[tuple[float, ...], float]
"""Features and seconds."""


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """What `fit` found.

    Attributes:
        target, threads, sizes: of the measurements.
        known: signature -> seconds.
        rates: kind of kernel -> seconds of a launch, and for each multiply-accumulate, byte read, byte written and element of the
            result; never negative. ``""`` stands for kinds that were never measured.
        runtime: seconds of a run, and for each group, that the runtime takes itself.
    """

    target: str
    threads: int
    sizes: Mapping[str, int]
    known: Mapping[str, float]
    rates: Mapping[str, NDArray[np.float64]]
    runtime: NDArray[np.float64]

    @classmethod
    def fit(cls, samples: Iterable[GroupCosts]) -> LatencyModel:
        """Non-negative least squares of relative errors, for each kind of kernel.

        Args:
            samples: of one target, number of threads and sizes.

        Raises:
            PassError: there are none, or they were measured differently.
        """
        given = list(samples)
        where = {(costs.target, costs.threads, tuple(sorted(costs.sizes.items()))) for costs in given}
        if len(where) != 1:
            what = "measured differently: " + ", ".join(map(str, sorted(where))) if where else "no measurement"
            raise PassError(what, where="latency model", way_on="fit costs of one target, number of threads and sizes")
        works: dict[str, Work] = {}
        times: dict[str, list[float]] = defaultdict(list)
        for costs in given:
            for (_, signature, seconds), work in zip(costs.groups, costs.works, strict=True):
                if work is not None:
                    works[signature] = work
                    times[signature].append(seconds)
        known = {signature: median(found) for signature, found in times.items()}
        rows: dict[str, list[Row]] = defaultdict(list)
        for signature, work in works.items():
            rows[kind_of(signature)].append((_features(work), known[signature]))
        everything = [row for some in rows.values() for row in some]
        rates = {kind: _fitted(some) for kind, some in {**rows, "": everything}.items()}
        own = [((1.0, len(costs.groups) - 1.0), sum(group[2] for group in costs.groups if group[1] == RUNTIME)) for costs in given]
        first = given[0]
        return cls(first.target, first.threads, first.sizes, known, rates, _fitted(own))

    def of(self, program: Program) -> GroupCosts:
        """The predicted costs of a program; nothing is compiled or run.

        Raises:
            BackendError: the target cannot take the program, or its kernels cannot be told apart.
        """
        at = sizes_at(program, self.sizes, f"target {self.target!r}")
        groups, measure = signatures(program, self.target, at), Measure(program, at)
        timed = [(nodes, signature, self.group(signature, measure.work(nodes))) for nodes, signature in groups]
        own = float(self.runtime @ np.array([1.0, len(groups)]))
        return costs_of(program, self.target, self.threads, at, (*timed, ((), RUNTIME, own)))

    def seconds(self, program: Program) -> float:
        """Of one run; raises as `of` does."""
        return self.of(program).seconds

    def group(self, signature: str, work: Work) -> float:
        """Seconds of one group: as measured where its signature is known."""
        known = self.known.get(signature)
        if known is not None:
            return known
        rates = self.rates.get(kind_of(signature))
        return float((self.rates[""] if rates is None else rates) @ np.array(_features(work)))


def kind_of(signature: str) -> str:
    """The kind of kernel that a signature begins with."""
    return signature.partition(":")[0]


def _features(work: Work) -> tuple[float, ...]:
    return 1.0, float(work.macs), float(work.read), float(work.written), float(work.elements)


def _fitted(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Rates whose errors, as shares of the times, have the least squares."""
    features, seconds = np.array([row for row, _ in rows]), np.array([time for _, time in rows])
    shares = 1 / np.maximum(seconds, _LEAST)
    most = np.maximum(np.abs(features).max(axis=0), 1e-300)  # equal units, or small columns are lost in rounding
    rates: NDArray[np.float64] = nnls(features / most * shares[:, None], seconds * shares)[0] / most
    return rates
