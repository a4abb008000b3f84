"""W ==> W with the weights that matter least at zero, by one of several scores, in shares or in n of every m neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from fxpress_ir import Program
from fxpress_ir.errors import PassError
from torch import Tensor, fx

from ..contract import GIVEN, Context, Lossy, Pass, Promise
from ..evidence.gradients import Loss
from ..evidence.input_norms import LAYERS
from . import masks
from .in_order import in_order
from .layers import Layer, as_matrix, as_weight, columns, prunable
from .plan import SparsityPlan, cut
from .scores import SCORES, Facts
from .scores.facts import in_matrix_order, unseen
from .scores.sparsegpt import sparsegpt

UPDATING = "sparsegpt"
"""The score that also moves the weights that stay."""
SCORED = (*SCORES, UPDATING)


@dataclass(frozen=True)
class Sparsify(Pass):
    """Unstructured pruning of linear layers and convolutions: the shapes stay, zeros are stored as any other number.

    All layers are scored at once, on the program as it comes, unless `sequential`. Later passes keep the zeros: folding,
    equalising and integers, where they are exact; only `rotate` would mix them away.

    Options:
        score: ``sparsegpt``, which also moves the weights that stay, or one that leaves them: ``magnitude``, ``random``,
            ``wanda``, ``gblm``, ``taylor``, ``fisher``. All but magnitude and random measure on calibration data.
        sparsity: the share of zeros in what is compared.
        pattern: ``2:4`` leaves at most 2 of every 4 neighbouring input channels, whatever `sparsity` says.
        compare: the scores of a ``row`` (what one output reads), of a ``layer``, or ``global``, of all layers.
        skip_ends: leave the first and the last layer as they are.
        sequential: of ``sparsegpt``: layer after layer, each on the inputs that the layers before it give with their zeros; it makes
            up for some of their error. The live values of all calibration batches are in memory at once.
        alpha, p: of ``gblm``: the factor of the gradients, and their norm over samples, 1 or 2.
        loss: of (outputs, inputs), for the scores by gradient; None for the outputs' cross-entropy with their own argmax.

    Raises:
        PassError: an option has no meaning; ``global`` would empty a layer.
        CalibrationError: the score needs data and has none.
    """

    name: ClassVar[str] = "sparsify"
    promise: ClassVar[Promise] = Lossy(5.0)
    after: ClassVar[tuple[str, ...]] = ("rotate",)
    loses: ClassVar[bool] = True
    score: str = UPDATING
    sparsity: float = 0.5
    pattern: str = ""
    compare: str = "row"
    skip_ends: bool = True
    sequential: bool = False
    alpha: float = 100.0
    p: int = 1
    loss: Loss | None = field(default=None, metadata={GIVEN: True})

    def __post_init__(self) -> None:
        if self.score not in SCORED:
            raise PassError(f"unknown score {self.score!r}", where=self.name, way_on=f"one of {', '.join(SCORED)}")
        if not 0 < self.sparsity < 1:
            raise PassError(f"sparsity={self.sparsity:g} is no share of zeros", where=self.name, way_on="between 0 and 1, e.g. 0.5")
        if self.compare not in masks.COMPARED:
            raise PassError(f"compare={self.compare!r}", where=self.name, way_on=f"one of {', '.join(masks.COMPARED)}")
        if self.score == UPDATING and self.compare == "global":
            raise PassError(f"{UPDATING} decides layer by layer", where=self.name, way_on='compare="row" or "layer"')
        if self.sequential and self.score != UPDATING:
            raise PassError(f"sequential is of score={UPDATING}", where=self.name, way_on="leave it out; other scores move no weight")
        if self.alpha < 0 or self.p not in (1, 2):
            raise PassError(f"alpha={self.alpha:g}, p={self.p}", where=self.name, way_on="alpha at least 0, p 1 or 2")
        if self.pattern:
            try:
                masks.parse_pattern(self.pattern)
            except ValueError as error:
                raise PassError(f"pattern={self.pattern!r}", where=self.name, way_on='e.g. "2:4": 2 of every 4 stay') from error

    def apply(self, program: Program, context: Context) -> Program:
        return cut(program, self.decide(program, context))

    def decide(self, program: Program, context: Context) -> SparsityPlan:
        """What would go, without doing it."""
        layers = prunable(program, context)
        ends = set(_ends(program)) if self.skip_ends else set()
        layers = [layer for layer in layers if ends.isdisjoint(layer.readers) and self._fits(program, layer, context)]
        facts = Facts(program, layers, context, self.loss, self.alpha, self.p)
        if self.score == UPDATING:
            return self._decide_updating(program, layers, facts, context)
        scores = {}
        for layer in layers:
            score = as_matrix(SCORES[self.score](layer, facts))
            if bool(score.isnan().any()):
                context.refuse(layer.readers[0], f"its {self.score} scores hold NaN", "repair the weight, or choose another score")
            else:
                scores[layer.weight] = score
        found = {name: as_weight(mask, program.tensors[name]) for name, mask in self._chosen(scores).items()}
        return SparsityPlan.of(program, found, {})

    def _decide_updating(self, program: Program, layers: list[Layer], facts: Facts, context: Context) -> SparsityPlan:
        found, values = {}, {}

        def decide(layer: Layer, moment: Callable[[], Tensor]) -> Tensor | None:
            weight = program.tensors[layer.weight]
            try:
                keep, moved = sparsegpt(as_matrix(facts.weight(layer)), moment(), self._chooser(), self._pattern)
            except ValueError as error:
                context.refuse(layer.readers[0], str(error), "choose another score")
                return None
            found[layer.weight] = as_weight(keep, weight)
            values[layer.weight] = as_weight(moved, weight).to(weight.dtype)
            return values[layer.weight]

        if self.sequential:
            seen = [layer for layer in layers if self._is_seen(layer, context)]
            batches = context.evidence.calibration.batches(program)
            in_order(program, batches, seen, lambda layer, moment: decide(layer, lambda: in_matrix_order(moment, facts.weight(layer))))
        else:
            for layer in layers:
                decide(layer, partial(facts.second_moment, layer))
        return SparsityPlan.of(program, found, values)

    def _is_seen(self, layer: Layer, context: Context) -> bool:
        if (why := unseen(layer.readers[0])) is not None:
            context.refuse(layer.readers[0], why, "choose another score")
        return why is None

    @property
    def _pattern(self) -> tuple[int, int] | None:
        return masks.parse_pattern(self.pattern) if self.pattern else None

    def _chooser(self) -> Callable[[Tensor], Tensor]:
        """Scores of a layer, or of some of its columns ==> its mask."""
        if self._pattern is not None:
            kept, of = self._pattern
            return lambda scores: masks.pattern(scores, kept, of)
        if self.compare == "row":
            return lambda scores: masks.share(scores, self.sparsity)
        return lambda scores: masks.share(scores.reshape(1, -1), self.sparsity).reshape(scores.shape)

    def _chosen(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._pattern is not None or self.compare != "global":
            choose = self._chooser()
            return {name: choose(part) for name, part in scores.items()}
        if not scores:
            return {}
        found = masks.over_all(scores, self.sparsity)
        for name, mask in found.items():
            if not bool(mask.any()):
                what = f"sparsity={self.sparsity:g} of all layers would empty {name}"
                raise PassError(what, where=self.name, way_on='a lower sparsity, or compare="layer"')
        return found

    def _fits(self, program: Program, layer: Layer, context: Context) -> bool:
        """Whether the wanted zeros can be had in this layer."""
        weight = program.tensors[layer.weight]
        if not bool(weight.isfinite().all()):
            context.refuse(layer.readers[0], f"its weight {layer.weight} holds NaN or infinity", "repair the model")
            return False
        if self._pattern is not None:
            of = self._pattern[1]
            if weight.shape[1] % of:
                context.refuse(
                    layer.readers[0], f"its {weight.shape[1]} input channels are no multiple of {of}", "give it a share of zeros"
                )
            return weight.shape[1] % of == 0
        compared = columns(weight) if self.compare == "row" else weight.numel()
        if masks.zeros(self.sparsity, compared) >= compared:
            way_on = "a lower sparsity" if self.compare != "row" else 'a lower sparsity, or compare="layer"'
            context.refuse(layer.readers[0], f"sparsity={self.sparsity:g} would empty each {self.compare} of {compared} weights", way_on)
            return False
        return True


def _ends(program: Program) -> list[fx.Node]:
    """The first and the last layer, prunable or not."""
    found = [node for node in program.graph.nodes if node.target in LAYERS]
    return [*found[:1], *found[-1:]]
