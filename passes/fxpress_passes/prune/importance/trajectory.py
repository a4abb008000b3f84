"""What every later layer and the outputs feel when an atom is masked: distances of Gram matrices, and a divergence of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from fxpress_ir.analysis.coupling import Group, coupled_groups
from torch import Tensor
from torch.nn import functional

from ...evidence.gradients import samples
from .context import Asked
from .gates import Gates, Read

SAMPLES, TOKENS, TEMPERATURE = 16, 64, 4.0
"""Samples that atoms are masked on, random tokens of them whose Gram matrix is compared, temperature of the scores' divergence."""


def trajectory(asked: Asked) -> Mapping[str, Tensor]:
    """OPTIN (Khaki and Plataniotis 2024, section 3): one run without each atom.

    The distance of a layer is the mean squared difference of its input's Gram matrices, rows of unit length; layers before
    the mask do not move and add nothing. The divergence is Kullback-Leibler's, of softmax(scores / T), times T^2.
    """
    gates = Gates(asked.program, tuple(coupled_groups(asked.program).values()))
    calibration = asked.context.evidence.calibration.batches(asked.program)
    taken = list(samples(asked.program, calibration, SAMPLES))
    same = all(part.shape == first.shape for sample in taken for part, first in zip(sample, taken[0], strict=True))
    batches = [tuple(torch.cat(parts) for parts in zip(*taken, strict=True))] if same and len(taken) > 1 else taken
    read = {group.name for group in gates.groups}
    groups = [group for group in asked.groups if group.name in read]
    found = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    done, total = 0, len(batches) * sum(group.size for group in groups)
    for batch in batches:
        with torch.no_grad():
            whole = _Run(gates, batch, {}, asked.generator("tokens"))
            for group in groups:
                for atom in range(group.size):
                    masked = _Run(gates, batch, {group.name: _without(group, atom)}, asked.generator("tokens"))
                    found[group.name][atom] += masked.far_from(whole) / len(batches)
                    done += 1
                    if asked.context.progress is not None:
                        asked.context.progress("masking", done, total)
    return found


def _without(group: Group, atom: int) -> Tensor:
    factors = torch.ones(group.size)
    factors[atom] = 0
    return factors


class _Run:
    """One run: the Gram matrix of every layer's input, and the outputs' scores."""

    def __init__(self, gates: Gates, batch: Sequence[Tensor], factors: Mapping[str, Tensor], generator: torch.Generator) -> None:
        self._grams: list[Tensor] = []
        self._generator = generator
        outputs = gates.outputs(batch, factors, self._add)
        scores = next((output for output in outputs if output.is_floating_point()), outputs[0]).double()
        self._log = functional.log_softmax(scores.reshape(-1, scores.shape[-1]) / TEMPERATURE, 1)

    def _add(self, read: Read, x: Tensor) -> None:
        tokens = x.detach().movedim(read.dim, -1).flatten(0, -2)
        if len(tokens) > TOKENS:
            tokens = tokens[torch.randperm(len(tokens), generator=self._generator)[:TOKENS]]
        unit = functional.normalize(tokens.double(), dim=1)
        self._grams.append(unit @ unit.T)

    def far_from(self, other: _Run) -> float:
        distance = sum(float((own - its).square().mean()) for own, its in zip(self._grams, other._grams, strict=True))
        divergence = functional.kl_div(self._log, other._log, log_target=True, reduction="batchmean")
        return distance + TEMPERATURE**2 * max(0.0, float(divergence))  # below 0 by rounding alone
