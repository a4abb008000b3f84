"""student, teacher, batches ==> trained leaves: distillation by Adam under a cosine, with masks that may grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.func import functional_call

from .checkpoint import Checkpoint
from .distillation import outputs_loss, square_head
from .schedule import PRUNED_BY, cosine, gradual_sparsity, smallest_masked
from .statistics import norms_with_statistics
from .trainable import Dense, Trainable

CLIP = 1.0
"""The largest norm of all gradients together."""
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class How:
    """Numbers of a training run.

    Attributes:
        steps, rate: how many, and the first learning rate.
        loss, temperature: of outputs.
        features, feature_weight: names of nodes whose values are compared too, and their share in the loss.
        sparsity, prune_every: the final share of zeros, 0 for masks that stay, and steps between two masks.
        batch_statistics: batch norms normalise by those of the batch, not by constants.
        perturbation: of weights before each step, the deviation of normal noise as a share of their root mean square; zeros stay.
        seed: of that noise; a step's depends on its number and on nothing else, so that a run can be gone on with.
    """

    steps: int
    rate: float
    loss: str = "kl"
    temperature: float = 1.0
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    sparsity: float = 0.0
    prune_every: int = 10
    batch_statistics: bool = False
    perturbation: float = 0.0
    seed: int = 0


def with_features(program: Program, features: Sequence[str], *, batch_statistics: bool = False) -> fx.GraphModule:
    """A module that returns (outputs, the values of these nodes); batch norms may use their batch's statistics."""
    graph, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    returned = graph.graph_copy(program.graph, nodes)
    by_name = {node.name: copied for node, copied in nodes.items()}
    if batch_statistics:
        for norm in norms_with_statistics(program):
            copied, named = nodes[norm], {**arguments(norm), "running_mean": None, "running_var": None, "training": True}
            named = {key: nodes[value] if isinstance(value, fx.Node) else value for key, value in named.items()}
            copied.args, copied.kwargs = tuple(named.values()), {}
    graph.output((returned, tuple(by_name[name] for name in features)))
    return fx.GraphModule(dict(program.tensors), graph, class_name="Distilled")


class Training:
    """One run; `step` makes one step, and `state` and `restore` carry it over an interruption.

    Args:
        pruned: of the trainables, those whose masks grow.
    """

    def __init__(self, student: Program, teacher: Program, trainables: Mapping[str, Trainable], pruned: Sequence[str], how: How) -> None:
        _check_alike(student, teacher, how.features)
        self._student = with_features(student, how.features, batch_statistics=how.batch_statistics)
        self._teacher = with_features(teacher, how.features)
        self._trainables, self._how = trainables, how
        self._leaves = {f"{name}:{part}": leaf for name, item in trainables.items() for part, leaf in item.leaves.items()}
        self._optimizer = torch.optim.Adam(self._leaves.values(), lr=how.rate)
        self._growing: dict[str, tuple[Dense, float]] = {}
        for name in pruned:
            item = trainables[name]
            assert isinstance(item, Dense)
            self._growing[name] = (item, float((item.leaves["value"] == 0).double().mean()))

    def loss(self, batch: Batch, number: int = 0) -> Tensor:
        with torch.no_grad():
            wanted, wanted_features = self._teacher(*batch)
        values = {name: item.value() for name, item in self._trainables.items()}
        if self._how.perturbation:
            values = _perturbed(values, self._how, number)
        found, features = functional_call(self._student, values, batch)
        loss = outputs_loss(self._how.loss, found, wanted, self._how.temperature)
        return loss + self._how.feature_weight * square_head(features, wanted_features) if features else loss

    def step(self, number: int, batch: Batch) -> float:
        """Step `number` of `how.steps`, from 0; gives the loss before it.

        Raises:
            PassError: the loss is NaN or infinite.
        """
        self._grow(number)
        with torch.enable_grad():
            loss = self.loss(batch, number)
            if not bool(loss.isfinite()):
                raise PassError(f"the loss is {float(loss.detach())} at step {number}", where="recover", way_on="a lower rate")
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._leaves.values(), CLIP)
        self._optimizer.param_groups[0]["lr"] = self._how.rate * cosine(number, self._how.steps)
        self._optimizer.step()
        return float(loss.detach())

    def _grow(self, number: int) -> None:
        end = max(1, round(PRUNED_BY * self._how.steps))
        if number > end or (number < end and number % self._how.prune_every):
            return
        for item, initial in self._growing.values():
            item.mask = smallest_masked(item.leaves["value"], gradual_sparsity(number, initial, self._how.sparsity, 0, end))

    def state(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {f"leaf:{name}": leaf for name, leaf in self._leaves.items()}
        for name, leaf in self._leaves.items():
            found.update({f"{part}:{name}": value for part, value in self._optimizer.state[leaf].items()})
        masks = {name: item.mask for name, (item, _) in self._growing.items()}
        return found | {f"mask:{name}": mask for name, mask in masks.items() if mask is not None}

    def restore(self, found: Mapping[str, Tensor]) -> None:
        for name, leaf in self._leaves.items():
            with torch.no_grad():
                leaf.copy_(found[f"leaf:{name}"])
            moments: dict[str, Any] = {part: found[f"{part}:{name}"] for part in ("step", "exp_avg", "exp_avg_sq")}
            self._optimizer.state[leaf] = moments
        for name, (item, _) in self._growing.items():
            item.mask = found[f"mask:{name}"]


def _perturbed(values: Mapping[str, Tensor], how: How, number: int) -> dict[str, Tensor]:
    generator, found = torch.Generator().manual_seed(how.seed * 1_000_003 + number), {}
    for name, value in values.items():
        size = value.detach().square().mean().sqrt() * how.perturbation
        noise = torch.randn(value.shape, generator=generator).to(value.dtype) * size
        found[name] = value + noise.where(value.detach() != 0, torch.zeros((), dtype=value.dtype))
    return found


def _check_alike(student: Program, teacher: Program, features: Sequence[str]) -> None:
    """Raises PassError where a node is missing from a program, or its values have another shape in the teacher."""
    found: list[dict[str, list[int | None]]] = []
    for program in (student, teacher):
        nodes = {node.name: node for node in program.graph.nodes if node.op == "call_function"}
        missing = [name for name in features if name not in nodes]
        if missing:
            raise PassError(f"the program has no node {missing[0]!r}", where="recover", way_on="name nodes of both: print(program)")
        found.append({name: [size if isinstance(size, int) else None for size in nodes[name].meta["val"].shape] for name in features})
    for name in features:
        if found[0][name] != found[1][name]:
            what = f"node {name!r} has another shape in the teacher"
            raise PassError(what, where="recover", way_on="name nodes of equal shapes in both")


def run(
    training: Training, steps: int, batches: Callable[[], Iterable[Batch]], checkpoint: Checkpoint, done: Callable[[int], None]
) -> None:
    """All steps, over the batches again and again in their order; from where the checkpoint stands, and kept there."""
    known = checkpoint.read()
    first = finished = 0
    if known is not None:
        first, tensors = known
        training.restore(tensors)
    endless, between = _endless(batches), True
    try:
        for _ in range(first):  # so that a run in two pieces sees the batches of a run in one
            next(endless)
        for number in range(first, steps):
            batch, between = next(endless), False
            training.step(number, batch)
            finished, between = number + 1, True
            if checkpoint.is_due:
                checkpoint.write(finished, training.state())
            done(finished)
    finally:
        if between and finished > first:  # within a step some leaves may have moved and others not
            checkpoint.write(finished, training.state())


def _endless(batches: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
    while True:
        yield from batches()
