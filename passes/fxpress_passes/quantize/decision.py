"""recognised graph, ranges ==> the grid of every value and the scales of every weight, snapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from fxpress_ir import Program
from fxpress_ir.errors import PassError, ProgramError
from torch import fx

from ..evidence import Range
from .elementwise import tabulate
from .recognize import Recognition, computes_on_floats, is_float
from .recognized import PASSES_ON, Recognized
from .scales import Grid, Snapped, activation_grid, snap_output, snap_sum, snap_weight
from .sharing import shared, site_of

RangeOf = Callable[[fx.Node, bool], Range]
"""The range to cover of a value; True for inputs and outputs."""


@dataclass(frozen=True)
class Placement:
    """The plan: the grid of each quantised value and the scales of each weight, by the name of the node that has them."""

    activations: Mapping[str, Grid]
    weights: Mapping[str, Snapped]


def islands(recognition: Recognition) -> dict[fx.Node, str]:
    """Nodes that stay in floats, and why; what only moves an island's values to other islands and outputs stays with them."""
    found = {node: what for node, what in recognition.found.items() if isinstance(what, str)}
    moves = {node: what for node, what in recognition.found.items() if isinstance(what, Recognized) and what.kind in ("move", "split")}
    ends: set[fx.Node] = set()
    for node in reversed(moves):
        if all(user in ends or not is_quantizable(user, recognition) for user in node.users):
            ends.add(node)
    for node, what in moves.items():
        if node in ends and what.operands[0] in found:
            found[node] = f"it moves what {what.operands[0].name} computes in floats"
    return found


def _fills(recognition: Recognition) -> dict[fx.Node, Range]:
    """The constants other than 0 that a value is padded with; infinite ones are as far as its grid goes."""
    found: dict[fx.Node, Range] = {}
    for node, what in recognition.found.items():
        if isinstance(what, Recognized) and what.kind == "pad" and what.fill and isfinite(what.fill):
            site, fill = site_of(node, recognition), Range(what.fill, what.fill)
            found[site] = found[site].merge(fill) if site in found else fill
    return found


def is_quantizable(node: fx.Node, recognition: Recognition) -> bool:
    return isinstance(recognition.found.get(node), Recognized)


class Decision:
    """One walk through the graph; each value's grid is known before its readers are reached."""

    def __init__(self, program: Program, recognition: Recognition, range_of: RangeOf, weight_bits: Callable[[fx.Node], int]) -> None:
        self._program, self._recognition, self._range_of, self._bits = program, recognition, range_of, weight_bits
        self._islands = islands(recognition)
        self._fills = _fills(recognition)
        self._grids: dict[fx.Node, Grid] = {}
        self._activations: dict[str, Grid] = {}
        self._weights: dict[str, Snapped] = {}
        self._shared = self._shared_grids()

    def plan(self) -> Placement:
        """Decide.

        Raises:
            PassError: an output's range is too small for its layer's weights and inputs.
        """
        for node in self._program.graph.nodes:
            if is_float(node) and (node.op == "placeholder" or node in self._islands):
                if any(is_quantizable(user, self._recognition) and user not in self._islands for user in node.users):
                    self._settle(node, self._target(node, border=True))
            elif node not in self._recognition.inside and node not in self._islands and computes_on_floats(node):
                what = self._recognition.found.get(node)
                if isinstance(what, Recognized):
                    self._visit(node, what)
        return Placement(self._activations, self._weights)

    def _visit(self, node: fx.Node, what: Recognized) -> None:
        try:
            if what.kind in PASSES_ON or what.kind == "pad":
                self._grids[node] = self._grids[what.operands[0]]
            elif what.kind == "concat":
                self._settle(node, self._target(node, nonnegative=all(self._grids[operand].qmin == 0 for operand in what.operands)))
            elif what.kind == "table":
                self._settle(node, self._target(node, nonnegative=self._table_is_nonnegative(node, what)))
            else:
                self._accumulator(node, what)
        except ProgramError as error:
            raise PassError(error.what, where=f"place-quantizers, node {node.name}", way_on=error.way_on) from error

    def _settle(self, site: fx.Node, grid: Grid) -> None:
        self._grids[site] = self._activations[site.name] = grid

    def _target(self, site: fx.Node, *, nonnegative: bool = False, bits: int = 8, border: bool = False) -> Grid:
        if site in self._shared:
            return self._shared[site]
        seen, padded = self._seen(site, border or bits == 16), self._fills.get(site)
        unsigned = (nonnegative and (padded is None or padded.low >= 0)) or (border and seen.low >= 0)
        return activation_grid(seen.low, seen.high, unsigned=unsigned, bits=bits)

    def _seen(self, site: fx.Node, border: bool) -> Range:
        """The range to cover of a value and of the constants that it is padded with."""
        seen = self._range_of(site, border)
        return seen.merge(self._fills[site]) if site in self._fills else seen

    def _accumulator(self, node: fx.Node, what: Recognized) -> None:
        core = what.core or node
        inputs = [self._grids[operand] for operand in what.operands]
        nonnegative = what.bounds[0] >= 0
        if what.kind == "weighted":
            final = core is node and all(user.op == "output" or user in self._islands for user in node.users)
            target = self._target(node, nonnegative=nonnegative, bits=16 if final else 8)
            weight, bias = (None if part is None else self._program.tensors[str(part.target)] for part in (what.weight, what.bias))
            assert weight is not None
            self._weights[core.name] = snap_weight(weight, bias, inputs[0].scale, target, bits=self._bits(core), axis=what.channel_axis)
        else:
            target = self._target(node, nonnegative=nonnegative or (what.sign > 0 and all(grid.qmin == 0 for grid in inputs)))
            if what.kind == "add":
                target = snap_sum(inputs[0].scale, inputs[1].scale, target)
            elif what.kind == "product":
                target = snap_output(inputs[0].scale * inputs[1].scale, target)
            else:
                target = snap_output(inputs[0].scale, target, divisor=what.divisor)
        self._settle(node, target)

    def _table_is_nonnegative(self, node: fx.Node, what: Recognized) -> bool:
        root = what.operands[0]
        found, _ = tabulate(node, root, self._recognition.cones.inside(node), self._grids[root].values(), self._program.tensors)
        return bool((found >= 0).all())

    def _shared_grids(self) -> dict[fx.Node, Grid]:
        """One grid for all values that meet in a concatenation, wide enough for each."""
        grids = {}
        for group in shared(self._recognition, self._islands):
            ranges = [self._seen(site, site.op == "placeholder") for site in group]
            low, high = min(seen.low for seen in ranges), max(seen.high for seen in ranges)
            unsigned = all(self._cannot_be_negative(site, seen) for site, seen in zip(group, ranges, strict=True))
            grids.update(dict.fromkeys(group, activation_grid(low, high, unsigned=unsigned)))
        return grids

    def _cannot_be_negative(self, site: fx.Node, seen: Range) -> bool:
        what = self._recognition.found.get(site)
        return seen.low >= 0 and (not isinstance(what, Recognized) or what.kind == "concat" or what.bounds[0] >= 0)
