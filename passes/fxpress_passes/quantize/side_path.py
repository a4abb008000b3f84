"""layer(x) ==> layer(x) + B(A(x)), in floats, and then on grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..evidence import Range
from ..low_rank.decompositions import Piece
from ..low_rank.split import add_weights, chain
from .decision import Placement
from .place_quantizers import place
from .recognize import Recognition, recognize
from .recognized import PASSES_ON, Recognized
from .scales import SHORT_LIMIT, Grid, Snapped, activation_grid, snap_weight

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_STEM = "side"
_FINEST = 8
"""A sum's operands have steps of at least 2**-8 of its own."""


@dataclass(frozen=True, eq=False)
class SidePath:
    """A layer, the two pieces A and B beside it, and what is added to B's result, float64 [outputs], or None."""

    node: fx.Node
    pieces: tuple[Piece, ...]
    bias: Tensor | None = None

    @property
    def inner(self) -> str:
        """The name of A."""
        return f"{self.node.name}_{_STEM}_in"

    @property
    def outer(self) -> str:
        """The name of B."""
        return f"{self.node.name}_{_STEM}_out"


def has_side_path(program: Program, node: fx.Node) -> bool:
    """The layer has a side path, or is a part of one; told by the name of the sum."""
    sums = {f"{name}_with_{_STEM}" for name in (node.name, node.name.rpartition(f"_{_STEM}_")[0])}
    return any(other.name in sums for other in program.graph.nodes)


def add_side_paths(program: Program, paths: Sequence[SidePath]) -> Program:
    """With the paths in floats; readers of each layer read the sum."""
    edit = program.edit()
    for path in paths:
        node = edit.here(path.node)
        stem, readers = f"{path.node.name}.{_STEM}", list(node.users)
        with edit.graph.inserting_after(node):
            end = edit.graph.call_function(_aten.add.Tensor, (node, node), name=f"{path.node.name}_with_{_STEM}")
        with edit.graph.inserting_before(end):
            weights = add_weights(edit, stem, path.pieces, path.node.meta["val"].dtype)
            bias = None if path.bias is None else edit.add_tensor(f"{stem}_bias", path.bias.to(path.node.meta["val"].dtype))
            end.args = (node, chain(edit, node, path.pieces, weights, bias, (path.inner, path.outer)))
        for reader in readers:
            reader.replace_input_with(node, end)
    return edit.finish()


def quantize_side_paths(program: Program, paths: Sequence[SidePath], ranges: Mapping[str, Range]) -> Program:
    """With quantisers on the paths' weights and values, and on the layers' own results.

    Args:
        program: simulated but for the paths, which `add_side_paths` put there.
        ranges: of its values.

    Raises:
        PassError: a layer's input or result has no quantiser.
    """
    recognition = recognize(program.graph)
    by_name = {node.name: node for node in program.graph.nodes}
    activations: dict[str, Grid] = {}
    weights: dict[str, Snapped] = {}
    for path in paths:
        node, inner, outer = (by_name[name] for name in (path.node.name, path.inner, path.outer))
        source = _source(node, recognition)
        target = _refined(_result(node, recognition), [ranges[node.name], ranges[path.outer]])
        between = activation_grid(ranges[path.inner].low, ranges[path.inner].high, unsigned=False)
        weights[path.inner] = snap_weight(*_constants(program, inner), source, between)
        weights[path.outer] = snap_weight(*_constants(program, outer), between, target)
        activations |= {path.node.name: target, path.inner: between, path.outer: target}
    return place(program, Placement(activations, weights))


def _constants(program: Program, node: fx.Node) -> tuple[Tensor, Tensor | None]:
    named = arguments(node)
    bias = named["bias"]
    return program.tensors[str(named["weight"].target)], None if bias is None else program.tensors[str(bias.target)]


def _source(node: fx.Node, recognition: Recognition) -> Grid:
    """The grid of what a layer reads."""
    value: fx.Node = arguments(node)["input"]
    while value.target is not _fxp.fake_quantize.default:
        what = recognition.found.get(value)
        if not isinstance(what, Recognized) or what.kind not in {*PASSES_ON, "pad"}:
            raise PassError("its input is not quantised", where=f"compensate, node {node.name}", way_on="run place-quantizers first")
        value = what.operands[0]
    return _grid(value)


def _result(node: fx.Node, recognition: Recognition) -> Grid:
    """The grid of the sum that a layer's result goes into, the finest where there are several."""
    (total,) = node.users
    sites = [total, *(site for site, what in recognition.found.items() if isinstance(what, Recognized) and what.core is total)]
    grids = [_grid(user) for site in sites for user in site.users if user.target is _fxp.fake_quantize.default]
    if not grids:
        raise PassError("its result is not quantised", where=f"compensate, node {node.name}", way_on="run place-quantizers first")
    return min(grids, key=lambda grid: grid.scale)


def _grid(quantizer: fx.Node) -> Grid:
    named = arguments(quantizer)
    return Grid(named["scale"], named["qmin"], named["qmax"])


def _refined(grid: Grid, seen: Sequence[Range]) -> Grid:
    """Signed 16 bits in steps of a power of two of the grid's own, with room for twice what was seen.

    The layer's multipliers were snapped to the grid's own step and stay dyadic; half a step at least of 8 bits, because their
    shifts may reach 16, one more than 16-bit results have.
    """
    reach = 2 * max(max(abs(one.low), abs(one.high)) for one in seen)
    least = 1 if grid.bits == 8 else 0
    room = math.floor(math.log2(grid.scale * SHORT_LIMIT / reach)) if reach > 0 else _FINEST
    halvings = max(least, min(_FINEST if grid.bits == 8 else 0, room))
    return Grid(math.ldexp(grid.scale, -halvings), -SHORT_LIMIT - 1, SHORT_LIMIT)
