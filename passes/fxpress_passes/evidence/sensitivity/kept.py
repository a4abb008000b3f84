"""A question about costs that add up over batches ==> their means: asked once of each choice, gone on with where it was interrupted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from fxpress_ir import Program
from fxpress_ir.digest import digest
from torch import Tensor

from ..calibration import Batch
from ..measurement import Measurement
from ..ranges import merged
from ..tally import Tally
from .asked import Asked, Perturbation
from .recorded import Recorded

Costs = Callable[[list[str], Batch, Mapping[str, Tally]], Iterator[tuple[str, Tally]]]
"""Keys of what is asked for, a batch, what the batches before it gave ==> by key what this batch adds."""


@dataclass
class _Tried:
    """Adds costs up batch by batch; memory is that of `costs`."""

    keys: list[str]
    costs: Costs
    found: Mapping[str, Tally]
    tell: Callable[[int], None]

    def observe(self, batch: Batch) -> None:
        new = dict[str, Tally]()
        for key, tally in self.costs(self.keys, batch, self.found):
            new[key] = tally
            if len(new) < len(self.keys):  # the last one is told of with the batch, once it is whole
                self.tell(len(new))
        self.found = merged(self.found, new)


def means(
    asked: Asked, what: str, keys: Iterable[str], costs: Costs, *, kind: str = "tallies", most: int | None = None
) -> dict[str, float]:
    """By key what it costs in the mean; only what no earlier question of the same program, data and `what` holds is measured.

    What is measured is one state of its own in the folder, by the keys that it holds, written after whole batches.

    Args:
        what: all that a cost depends on beside the program, the data and its key.
        keys: what is asked for; equal keys cost the same.
        kind: of state, ``tallies`` or ``eigenvalues``.
        most: batches that are looked at; None for the question's.

    Raises:
        CalibrationError: the folder holds costs over other data; it is damaged; there are no data to measure on.
    """
    evidence, most, wanted = asked.context.evidence, most or asked.most, list(dict.fromkeys(keys))
    begin = f"{what}, {most} batches at most, of "
    known = evidence.tallies(kind, asked.program, begin, most)
    missing = [key for key in wanted if key not in known]
    if missing:
        steps, whole = len(asked.batches[:most]) * len(missing), [0]

        def done(batches: int) -> None:
            whole[0] = batches * len(missing)
            asked.tell(whole[0], steps)

        def tried(program: Program, found: Mapping[str, Tally]) -> _Tried:
            return _Tried(missing, costs, found, lambda place: asked.tell(whole[0] + place, steps))

        question = begin + hashlib.sha256("\n".join(missing).encode()).hexdigest()
        known |= evidence.measured(Measurement(kind, tried, question, most), asked.program, done)
    return {key: known[key].mean for key in wanted}


def choice_keys(asked: Asked) -> dict[str, str]:
    """By choice a digest of what it makes of weights, and of the first operands of nodes on the first batch; its name beside those.

    Weights that a choice makes are hashed and forgotten one by one; a run of the program is needed only where inputs change.
    """
    recorded = Recorded(asked.program, asked.batches[0], {}) if any(one.inputs for one in asked.perturbations) else None
    return {one.name: _key(one, recorded) for one in asked.perturbations}


def weights_key(weights: Mapping[str, Tensor]) -> str:
    """A digest of tensors by name."""
    return _sha256(f"{name} {digest(value)}" for name, value in sorted(weights.items()))


def _key(one: Perturbation, recorded: Recorded | None) -> str:
    parts = [weights_key(one.weights())]
    if recorded is not None and one.inputs:
        made = {name: change(recorded.operand(name)) for name, change in one.inputs.items()}
        # another batch may tell apart what this one does not: the name says which precision it is
        parts += [weights_key(made), one.name]
    return _sha256(parts)


def _sha256(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
