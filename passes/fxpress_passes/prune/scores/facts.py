"""What a score may ask for: the weight, its inputs' norms, gradients by weight, a generator; measured when first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import torch
from fxpress_ir import Program
from torch import Tensor, fx

from ...contract import Context
from ...evidence.gradients import Gradients, Loss, Statistic, own_cross_entropy, samples
from ...evidence.input_norms import InputNorm
from ...evidence.second_moment import SecondMoment
from ...evidence.second_moments import LAYERS as MEASURED
from ...evidence.second_moments import moment_key, unmeasured
from ..layers import Layer, as_matrix, columns

SAMPLES = 128
"""Of calibration data that gradients are taken of (Das et al. 2023, GBLM-Pruner, section 4)."""


class Facts:
    """Facts about the weights of `layers`, on one program.

    Args:
        loss: what gradients are of; None for the outputs' cross-entropy with their own argmax.
        alpha, p: of the score that mixes norms and gradients: the gradients' factor, and the norm over samples, 1 or 2.
    """

    def __init__(
        self, program: Program, layers: Sequence[Layer], context: Context, loss: Loss | None = None, alpha: float = 100.0, p: int = 1
    ) -> None:
        self._program, self._layers, self._context, self._loss = program, layers, context, loss or own_cross_entropy
        self.alpha, self.p = alpha, p
        self._gradients: dict[Statistic, Mapping[str, Tensor]] = {}

    def weight(self, layer: Layer) -> Tensor:
        """Float64 [outputs, inputs / groups, *window]."""
        return self._program.tensors[layer.weight].detach().double()

    def norms(self, layer: Layer) -> Tensor:
        """``||X_j||_2`` of what each weight multiplies, in the weight's shape; over all readers of a shared weight."""
        found = self._context.evidence.input_norms(self._program)
        together: InputNorm = reduce(InputNorm.merge, (found[reader.name] for reader in layer.readers))
        return together.of_weight(len(self._program.tensors[layer.weight]))

    def second_moment(self, layer: Layer) -> Tensor:
        """E[x x^T] of what the layer's matrix (`as_matrix`) multiplies, float64 [columns, columns].

        Raises:
            ValueError: it is not measured; the message says why.
        """
        found, weight = self._context.evidence.second_moments(self._program), self._program.tensors[layer.weight]
        for reader in layer.readers:
            if (why := unseen(reader)) is not None:
                raise ValueError(why)
        together = reduce(SecondMoment.merge, (found[moment_key(reader)] for reader in layer.readers))
        return in_matrix_order(together, weight)

    def gradients(self, layer: Layer, statistic: Statistic) -> Tensor:
        """A statistic of the loss's gradient over samples, float64 in the weight's shape."""
        if statistic not in self._gradients:
            observer = Gradients(self._program, [item.weight for item in self._layers], statistic, self._loss)
            for sample in samples(self._program, self._context.evidence.calibration.batches(self._program), SAMPLES):
                observer.observe(sample)
            self._gradients[statistic] = observer.found
        return self._gradients[statistic][layer.weight].double()

    def generator(self, layer: Layer) -> torch.Generator:
        """Seeded by the pipeline's seed and the weight's name, so that no layer's numbers depend on another's."""
        text = f"{self._context.seed} {layer.weight}"
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def unseen(reader: fx.Node) -> str | None:
    """Why what a layer reads has no second moment; None where it has one."""
    return unmeasured(reader) if reader.target in MEASURED else "only linear layers and conv2d have second moments"


def in_matrix_order(moment: SecondMoment, weight: Tensor) -> Tensor:
    """E[x x^T] with the columns of `as_matrix` of the weight that multiplies x, float64."""
    order = as_matrix(torch.arange(columns(weight)).reshape(1, *weight.shape[1:]))[0]
    return torch.from_numpy(moment.moment)[order[:, None], order]


Score = Callable[[Layer, Facts], Tensor]
"""A layer and the facts ==> float64 in the weight's shape; the lowest go first. NaN is refused by whoever compares."""
