"""recognised graph, ranges ==> the grid of every value and the scales of every weight, snapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite

import torch
from fxpress_ir import Program
from fxpress_ir.digest import digest
from fxpress_ir.errors import PassError, ProgramError
from torch import Tensor, fx

from ..evidence import Range
from .coarse import coarse_readers, weighted
from .elementwise import tabulate
from .limits import code_limits
from .precision import Precision
from .recognize import Recognition, is_float
from .recognized import PASSES_ON, Recognized
from .scales import (
    AVERAGE_BITS,
    PROBABILITIES,
    SHORT_LIMIT,
    Grid,
    Snapped,
    activation_grid,
    snap_output,
    snap_sum,
    snap_weight,
    tied_scales,
)
from .sharing import shared, site_of
from .stream import BYTES_ONLY, reads_short, rotations, stream

RangeOf = Callable[[fx.Node, bool], Range]
"""The range to cover of a value; True for inputs and outputs."""


@dataclass(frozen=True)
class Narrowed:
    """A value of 16 bits in 8, for the readers that take no more, by name."""

    grid: Grid
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """The plan: the grid of each quantised value and the scales of each weight, by the name of the node that has them.

    `narrowed` has the values of which some readers take 8 bits and others 16.
    """

    activations: Mapping[str, Grid]
    weights: Mapping[str, Snapped]
    narrowed: Mapping[str, Narrowed] = field(default_factory=dict)


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

    def __init__(
        self,
        program: Program,
        recognition: Recognition,
        range_of: RangeOf,
        precision_of: Callable[[fx.Node], Precision],
        activation_bits: int = 8,
        floor: float = float("-inf"),
    ) -> None:
        self._program, self._recognition, self._range_of = program, recognition, range_of

        def weight_bits(node: fx.Node) -> int:
            return precision_of(node).weight

        self._bits = weight_bits
        self._activation_bits = activation_bits
        self._islands = islands(recognition)
        self._fills = _fills(recognition)
        coarse: frozenset[fx.Node] = frozenset()
        if activation_bits == 8 and floor > 0:
            coarse = coarse_readers(recognition, self._islands, program.tensors, lambda node: self._seen(node, False), weight_bits, floor)
        if activation_bits == 8:
            coarse |= {node for node, core in weighted(recognition, self._islands) if precision_of(core).activation == 16}
        limited = None if activation_bits == 16 else coarse
        self._most = code_limits(recognition, program.tensors, weight_bits, limited)
        self._fine = rotations(recognition, program.tensors) | coarse
        self._stream = stream(recognition, self._islands, self._fine)
        self._grids: dict[fx.Node, Grid] = {}
        self._narrowed: dict[fx.Node, Narrowed] = {}
        self._activations: dict[str, Grid] = {}
        self._weights: dict[str, Snapped] = {}
        self._tied: dict[tuple[str, int, int], Snapped] = {}
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
            elif node not in self._recognition.inside and node not in self._islands:
                what = self._recognition.found.get(node)
                if isinstance(what, Recognized):
                    self._visit(node, what)
        return Placement(self._activations, self._weights, {node.name: narrowed for node, narrowed in self._narrowed.items()})

    def _visit(self, node: fx.Node, what: Recognized) -> None:
        try:
            inputs = [self._read(node, what, operand) for operand in what.operands]
            if what.kind in PASSES_ON or what.kind == "pad":
                self._grids[node] = inputs[0]
            elif what.kind == "concat":
                self._settle(node, self._target(node, nonnegative=all(grid.qmin == 0 for grid in inputs)))
            elif what.kind == "table":
                self._settle(node, self._target(node, nonnegative=self._table_is_nonnegative(node, what, inputs[0])))
            elif what.kind == "softmax":
                self._settle(node, PROBABILITIES)
            elif what.kind == "attention":
                self._attention(node, what, inputs)
            elif what.kind in ("normalize", "rotary", "embedding", "constant"):
                self._settle(node, self._target(node, final=what.kind == "normalize" and self._is_final(node)))
            else:
                self._accumulator(node, what, inputs)
        except ProgramError as error:
            raise PassError(error.what, where=f"place-quantizers, node {node.name}", way_on=error.way_on) from error

    def _settle(self, site: fx.Node, grid: Grid) -> None:
        self._grids[site] = self._activations[site.name] = grid

    def _target(self, site: fx.Node, *, nonnegative: bool = False, final: bool = False, border: bool = False) -> Grid:
        if site in self._shared:
            return self._shared[site]
        seen, padded = self._seen(site, border or final), self._fills.get(site)
        unsigned = (nonnegative and (padded is None or padded.low >= 0)) or (border and seen.low >= 0)
        bits = 16 if final or site in self._stream else self._activation_bits
        return activation_grid(seen.low, seen.high, unsigned=unsigned, bits=bits, most=self._most.get(site, SHORT_LIMIT))

    def _seen(self, site: fx.Node, border: bool) -> Range:
        """The range to cover of a value and of the constants that it is padded with."""
        what = self._recognition.found.get(site)
        if isinstance(what, Recognized) and what.kind in ("embedding", "constant"):
            low, high = torch.aminmax(self._program.tensors[str((what.weight or site).target)].detach())
            seen = Range(float(low), float(high))
        else:
            seen = self._range_of(site, border)
        return seen.merge(self._fills[site]) if site in self._fills else seen

    def _read(self, reader: fx.Node, what: Recognized, operand: fx.Node) -> Grid:
        """The grid of an operand as `reader` takes it: in 8 bits where it takes no more."""
        grid = self._grids[operand]
        short = what.kind not in BYTES_ONLY and (self._activation_bits == 16 or reads_short(reader, what, self._stream, self._fine))
        if grid.bits == 8 or short:
            return grid
        before = self._narrowed.get(operand)
        if before is None:
            seen = self._seen(operand, False)
            before = Narrowed(snap_output(grid.scale, activation_grid(seen.low, seen.high, unsigned=grid.qmin == 0)), ())
        readers = (*before.readers, *(name for name in _calls(reader, what, operand) if name not in before.readers))
        self._narrowed[operand] = Narrowed(before.grid, readers)
        return before.grid

    def _is_final(self, node: fx.Node) -> bool:
        return all(user.op == "output" or user in self._islands for user in node.users)

    def _attention(self, node: fx.Node, what: Recognized, inputs: list[Grid]) -> None:
        """The scores' scale and the result's, each snapped to the product that it is requantised from."""
        assert what.scores is not None
        seen = self._range_of(what.scores, False)
        unit = inputs[0].scale * inputs[1].scale * what.factor
        scores = snap_output(unit, activation_grid(seen.low, seen.high, unsigned=False))
        self._activations[what.scores.name] = scores
        nonnegative = inputs[2].qmin == 0
        self._settle(node, snap_output(inputs[2].scale / (1 << AVERAGE_BITS), self._target(node, nonnegative=nonnegative)))

    def _accumulator(self, node: fx.Node, what: Recognized, inputs: list[Grid]) -> None:
        core = what.core or node
        nonnegative = what.bounds[0] >= 0
        if what.kind == "weighted":
            target = self._target(node, nonnegative=nonnegative, final=core is node and self._is_final(node))
            weight, bias = (None if part is None else self._program.tensors[str(part.target)] for part in (what.weight, what.bias))
            assert weight is not None
            self._weights[core.name] = self._snapped(weight, bias, inputs[0], target, bits=self._bits(core), axis=what.channel_axis)
        else:
            target = self._target(node, nonnegative=nonnegative or (what.sign > 0 and all(grid.qmin == 0 for grid in inputs)))
            if what.kind == "add":
                target = snap_sum(inputs[0].scale, inputs[1].scale, target)
            elif what.kind in ("product", "matmul"):
                target = snap_output(inputs[0].scale * inputs[1].scale, target)
            else:
                target = snap_output(inputs[0].scale, target, divisor=what.divisor)
        self._settle(node, target)

    def _snapped(self, weight: Tensor, bias: Tensor | None, source: Grid, target: Grid, *, bits: int, axis: int) -> Snapped:
        """Scales of a weight; one that several layers have, by one name or several, is quantised once if it can be."""
        key = digest(weight), bits, axis
        tied = tied_scales(self._tied[key], weight, bias, source, target) if key in self._tied else None
        found = tied or snap_weight(weight, bias, source, target, bits=bits, axis=axis)
        self._tied.setdefault(key, found)
        return found

    def _table_is_nonnegative(self, node: fx.Node, what: Recognized, grid: Grid) -> bool:
        root = what.operands[0]
        found, _ = tabulate(node, root, self._recognition.cones.inside(node), grid.values(), self._program.tensors)
        return bool((found >= 0).all())

    def _shared_grids(self) -> dict[fx.Node, Grid]:
        """One grid for all values that meet in a concatenation, wide enough for each."""
        grids = {}
        for group in shared(self._recognition, self._islands):
            ranges = [self._seen(site, site.op == "placeholder") for site in group]
            low, high = min(seen.low for seen in ranges), max(seen.high for seen in ranges)
            unsigned = all(self._cannot_be_negative(site, seen) for site, seen in zip(group, ranges, strict=True))
            most = min(self._most.get(site, SHORT_LIMIT) for site in group)
            bits = 16 if self._stream & set(group) else self._activation_bits
            grids.update(dict.fromkeys(group, activation_grid(low, high, unsigned=unsigned, bits=bits, most=most)))
        return grids

    def _cannot_be_negative(self, site: fx.Node, seen: Range) -> bool:
        what = self._recognition.found.get(site)
        return seen.low >= 0 and (not isinstance(what, Recognized) or what.kind == "concat" or what.bounds[0] >= 0)


def _calls(reader: fx.Node, what: Recognized, operand: fx.Node) -> list[str]:
    """The nodes that read `operand` where `reader` computes: itself, what it bounds, and what computes within it."""
    return [node.name for node in (reader, what.core, *what.parts) if node is not None and operand in node.all_input_nodes]
