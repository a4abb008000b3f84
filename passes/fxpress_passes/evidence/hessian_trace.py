"""program, batches, a loss ==> the trace of the loss's Hessian by each weight, and by what nodes give: Hutchinson's estimate.

E[z^T H z] = Tr H for random signs z (Hutchinson 1990; HAWQ-V2, catalogue row M201). One z over all tensors gives every layer's
z_i^T (H z)_i from one Hessian-vector product: terms between layers have mean 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.digest import digest
from fxpress_ir.errors import CalibrationError
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from .calibration import Batch
from .gradients import Loss
from .losses import LOSSES
from .measurement import Measurement
from .ranges import merged
from .trace import Trace


class HessianTraces:
    """Adds up draws batch by batch; memory holds one batch's graph of a second derivative.

    Args:
        weights: names of the program's tensors.
        nodes: names of nodes; the trace by what they give is the mean of single samples' (HAWQ-V2's for activations) where the
            loss is a mean over samples.
        loss: of outputs and batch, twice differentiable.
        draws: of z, a batch.
        seed: of z; a batch's draws depend on its values beside it and on nothing else, so that a walk can be gone on with, and
            walks over shards of data draw what one over all of them would. Equal batches draw the same.
        found: what earlier batches gave.
    """

    def __init__(
        self,
        program: Program,
        weights: Collection[str],
        loss: Loss,
        *,
        nodes: Collection[str] = (),
        draws: int = 8,
        seed: int = 0,
        found: Mapping[str, Trace] | None = None,
    ) -> None:
        self._loss, self._draws, self._seed = loss, draws, seed
        self._weights = {name: program.tensors[name].detach().clone().requires_grad_() for name in weights}
        self._run = _Added(program, nodes, self._weights)
        self.found: Mapping[str, Trace] = found or {}

    def observe(self, batch: Batch) -> None:
        """Fold one batch in.

        Raises:
            CalibrationError: the loss is no scalar of the weights, or its second derivative is NaN or infinite; nothing of the
                batch is kept.
        """
        generator, new = _generator(self._seed, batch), dict[str, Trace]()
        with second_derivatives():
            outputs, added = self._run.outputs(batch)
            variables = {**self._weights, **added}
            gradients = first_derivatives(self._loss(outputs, batch), variables)
            for draw in range(self._draws):
                signs = {name: _signs(value, generator) for name, value in variables.items()}
                for name, product in products(gradients, variables, signs, keep=draw + 1 < self._draws).items():
                    value = float((signs[name].double() * product.double()).sum())
                    if not math.isfinite(value):
                        raise CalibrationError(
                            "the loss's second derivative is NaN or infinite", where=name, way_on="check the model and the loss"
                        )
                    one = Trace(variables[name].numel() // (len(batch[0]) if name in added else 1), 1, value, 0.0)
                    new[name] = new[name].merge(one) if name in new else one
        self.found = merged(self.found, new)


def hessian_traces(weights: Collection[str], loss: str, *, draws: int, seed: int, most: int) -> Measurement[Trace]:
    """The question for `Evidence.measured`; draws are of all weights together, so that other weights are another question.

    Args:
        loss: `LOSSES`' name.
        most: batches that are looked at.
    """
    names = hashlib.sha256("\n".join(weights).encode()).hexdigest()
    question = f"{loss}, {draws} draws a batch, seed {seed}, {most} batches at most, weights {names}"
    return Measurement(
        "traces",
        lambda program, found: HessianTraces(program, weights, LOSSES[loss], draws=draws, seed=seed, found=found),
        question,
        most,
    )


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Attention is computed written out: the fused kernel of the CPU has no second derivative."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def first_derivatives(loss: Tensor, variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss's gradient, differentiable again; zeros where it does not depend on a variable.

    Raises:
        CalibrationError: it is no scalar that depends on any.
    """
    if loss.numel() != 1 or not loss.requires_grad:
        raise CalibrationError("the loss is no scalar that depends on the weights", way_on="give one that is")
    found = torch.autograd.grad(loss.reshape(()), list(variables.values()), create_graph=True, allow_unused=True)
    return {name: torch.zeros_like(value) if g is None else g for (name, value), g in zip(variables.items(), found, strict=True)}


def products(
    gradients: Mapping[str, Tensor], variables: Mapping[str, Tensor], vectors: Mapping[str, Tensor], *, keep: bool
) -> dict[str, Tensor]:
    """(H v) for each variable; `keep` keeps the graph for another product."""
    pairs = [(gradients[name], vector) for name, vector in vectors.items() if gradients[name].requires_grad]
    if not pairs:
        return {name: torch.zeros_like(value) for name, value in variables.items()}
    total = torch.stack([(gradient * vector).sum() for gradient, vector in pairs]).sum()
    found = torch.autograd.grad(total, list(variables.values()), retain_graph=keep, allow_unused=True)
    return {name: torch.zeros_like(value) if p is None else p for (name, value), p in zip(variables.items(), found, strict=True)}


def _generator(seed: int, batch: Batch) -> torch.Generator:
    name = " ".join([str(seed), *map(digest, batch)])
    return torch.Generator().manual_seed(int(hashlib.sha256(name.encode()).hexdigest()[:15], 16))


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1


class _Added(fx.Interpreter):
    """The program with variables of value 0 added to what some nodes give."""

    def __init__(self, program: Program, nodes: Collection[str], weights: Mapping[str, Tensor]) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self._nodes, self._weights, self._added = frozenset(nodes), weights, dict[str, Tensor]()

    def outputs(self, batch: Batch) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        self._added = {}
        result: tuple[Tensor, ...] = tuple(self.run(*batch))
        return result, self._added

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr" and str(n.target) in self._weights:
            return self._weights[str(n.target)]
        value = super().run_node(n)
        if n.name in self._nodes:
            self._added[n.name] = torch.zeros_like(value, requires_grad=True)
            return value + self._added[n.name]
        return value
