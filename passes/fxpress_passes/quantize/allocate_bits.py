"""float program, budgets ==> the bits of each layer's weights that lose least within them, and the quantisers placed so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fxpress_ir import Program
from fxpress_ir.errors import PassError, PipelineError
from torch import fx

from ..allocate.answer import Answer
from ..allocate.problem import Problem, Unit
from ..allocate.solver import Solver
from ..allocate.solvers import Brute, Dynamic, Greedy, Milp
from ..contract import GIVEN, Context, Lossy, Pass, Promise
from ..evidence.losses import DISTANCES, LOSSES
from ..evidence.sensitivity import MEASURES
from .layer_choices import LayerCosts, layers_of, units
from .own_weights import with_own_weights
from .placing import Placing, check_choice, place
from .precision import Precision, entries, precision_of, precisions, weighted_layers
from .recognize import Recognition
from .refine import Refine

_SOLVERS: Mapping[str, Solver] = {solver.name: solver for solver in (Milp(), Dynamic(), Greedy(), Brute())}
"""Those that need no more than a problem."""


@dataclass(frozen=True)
class AllocateBits(Pass):
    """Mixed precision as HAWQ-V3 means it (row M213): least summed sensitivity under budgets, by an integer program.

    `decide` makes the answer, which prints, is JSON, and names each layer's bits; `entries_of` turns it into the option ``bits`` of
    `place-quantizers`, which replays it without the search.

    Options:
        average: the most bits of a weight, in the mean of all; 0 sets no such budget.
        bops: the most operations by bits (MACs * bits of weights * bits of inputs), as a share of those at 8 bits; 0 sets none.
        choices: the precisions to choose from.
        edges: the precision of the first and the last layer, which is not chosen then, as in HAWQ-V3 (``w8``); empty lets what is
            measured choose it.
        measure: of sensitivity: ``distance`` and ``noise`` try each choice, ``hessian-trace``, ``eigenvalue``, ``fisher`` and
            ``taylor`` go by derivatives, ``masked`` by zeroed parts, ``weight-error`` by weights alone.
        loss: what is measured: ``divergence`` of scores along the last axis, ``squares`` for outputs that are no scores,
            ``cross-entropy`` with the program's own argmax (derivatives only).
        solver: ``milp``, ``dynamic``, ``greedy`` or ``brute``.
        rounds: of `refine`: around the answer it is measured what one step of each layer moves the output by, and the best of what the
            moves give together is tried, while that helps; 0 leaves the answer as the single choices' losses give it.
        ranges, border_ranges, percentile, input_floor, integer_only: as of `place-quantizers`.
        budgets: limits of any resource that `costs` knows, such as ``latency`` in seconds. Only from Python.
        costs: a layer's name and a precision ==> its costs. Only from Python.
        answer: an answer to replay. Only from Python.
    """

    name: ClassVar[str] = "allocate-bits"
    promise: ClassVar[Promise] = Lossy(0.0)
    gives: ClassVar[str | None] = "simulated"
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants", "fold-positions")
    needs: ClassVar[tuple[str, ...]] = (
        *("remove-noops", "fold-constants", "fold-positions", "compose-linear", "compose-rms-norm", "decompose-index"),
        *("decompose-unflatten", "decompose-roll", "decompose-pool1d", "decompose-attention", "compose-masks", "separate-masks"),
    )
    average: float = 4.0
    bops: float = 0.0
    choices: tuple[str, ...] = ("w8", "w7", "w6", "w5", "w4", "w3", "w2")
    edges: str = ""
    measure: str = "distance"
    loss: str = "divergence"
    solver: str = "milp"
    rounds: int = 4
    ranges: str = "minmax"
    border_ranges: str = "minmax"
    percentile: float = 99.99
    input_floor: float = 25.0
    integer_only: bool = False
    budgets: Mapping[str, float] = field(default_factory=dict, metadata={GIVEN: True})
    costs: LayerCosts | None = field(default=None, metadata={GIVEN: True})
    answer: Answer | None = field(default=None, metadata={GIVEN: True})

    def __post_init__(self) -> None:
        for option, value, known in (("measure", self.measure, MEASURES), ("loss", self.loss, LOSSES), ("solver", self.solver, _SOLVERS)):
            check_choice(option, value, tuple(known), self.name)
        if not 0 <= self.average <= 8:
            raise PipelineError(f"average={self.average:g}", where=self.name, way_on="0 for none, at most 8 bits")
        if not 0 <= self.bops <= 2:
            raise PipelineError(f"bops={self.bops:g}", where=self.name, way_on="0 for none, a share of those at 8 bits")
        if self.rounds < 0:
            raise PipelineError(f"rounds={self.rounds}", where=self.name, way_on="0 or more")
        if not self._choices():
            raise PipelineError("no choices", where=self.name, way_on='e.g. choices=["w8", "w4"]')
        if not (self.average or self.bops or self.budgets or self.answer):
            raise PipelineError("no budget", where=self.name, way_on="give average, bops, or budgets and costs")
        self._placing()

    def apply(self, program: Program, context: Context) -> Program:
        answer = self.answer if self.answer is not None else self.decide(program, context)
        chosen = precisions(self.entries_of(answer, program), self.name)

        def of(recognition: Recognition) -> dict[fx.Node, Precision]:
            layers = weighted_layers(recognition)
            unknown = sorted(chosen.keys() ^ layers.keys())
            if unknown:
                raise PassError(f"the answer and the program differ in {unknown[0]!r}", where=self.name, way_on="decide on this program")
            return {node: chosen[name] for name, node in layers.items()}

        return place(program, self._placing().decide(program, context, of))

    def problem(self, program: Program, context: Context) -> Problem:
        """The choices with their losses and costs, and the budgets; what `decide` solves.

        Raises:
            PassError: a sensitivity is not finite; a budget is less than what the edges take alone.
            CalibrationError: no usable calibration data.
        """
        program = with_own_weights(program)
        layers = layers_of(program)
        free = layers[1:-1] if self.edges else layers
        fixed = [layer for layer in layers if layer not in free]
        found: tuple[Unit, ...] = units(program, free, self._choices(), context, measure=self.measure, loss=self.loss, costs=self.costs)
        budgets, base = dict(self.budgets), dict[str, float]()
        for layer in fixed:
            own = {**layer.costs(self._edge), **({} if self.costs is None else self.costs(layer.names[0], self._edge))}
            for name, value in own.items():
                base[name] = base.get(name, 0.0) + value
        if self.average:
            budgets["size"] = self.average / 8 * sum(layer.elements for layer in layers)
        if self.bops:
            budgets["bops"] = self.bops * sum(layer.costs(Precision())["bops"] for layer in layers)
        return Problem(found, budgets, base=base)

    def decide(self, program: Program, context: Context) -> Answer:
        """The bits of each layer but the edges.

        Raises:
            InfeasibleError: no bits hold the budgets; it names those that bind, and the nearest that can be held.
            PassError, CalibrationError: as `problem`.
        """
        solver, problem = _SOLVERS[self.solver], self.problem(program, context)
        answer = solver.solve(problem)
        if not self.rounds:
            return answer
        program = with_own_weights(program)
        layers = {layer.names[0]: layer for layer in layers_of(program)}
        loss = self.loss if self.loss in DISTANCES else "divergence"
        return Refine(program, layers, context, loss).better(problem, answer, self.rounds)

    def entries_of(self, answer: Answer, program: Program) -> tuple[str, ...]:
        """The option ``bits`` of `place-quantizers` that replays an answer."""
        edges = {} if not self.edges else {name: self._edge for layer in _ends(program) for name in layer}
        return entries({**edges, **{name: precision_of(choice, self.name) for name, choice in answer.decisions.items()}})

    @property
    def _edge(self) -> Precision:
        return precision_of(self.edges, self.name)

    def _choices(self) -> tuple[Precision, ...]:
        if self.edges:
            precision_of(self.edges, self.name)
        return tuple(precision_of(text, self.name) for text in self.choices)

    def _placing(self) -> Placing:
        return Placing(self.name, 8, self.ranges, self.border_ranges, self.percentile, self.input_floor, self.integer_only)


def _ends(program: Program) -> list[tuple[str, ...]]:
    layers = layers_of(program)
    return [layer.names for layer in (*layers[:1], *layers[1:][-1:])]
