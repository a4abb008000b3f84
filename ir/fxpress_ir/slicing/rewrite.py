"""Arguments that name sizes ==> the sizes that remain: shapes, split sizes, slice ends, counts of groups, attention's scale."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from ..analysis.coupling import Groups
from ..ops.library import arguments

_aten = torch.ops.aten
Dimension = NDArray[np.int64] | None


@dataclass(frozen=True)
class Shrunk:
    """One call of a program whose dimensions shrink: `node` of the old graph, `new` its copy."""

    node: fx.Node
    new: fx.Node
    groups: Groups
    leaving: NDArray[np.int64]

    @property
    def name(self) -> str:
        return str(getattr(self.node.target, "_opname", ""))

    def dimensions(self, node: fx.Node) -> tuple[Dimension, ...]:
        """The atoms of each dimension of a tensor."""
        found: tuple[Dimension, ...] = self.groups.dimensions(node)
        return found

    def count(self, dimension: Dimension, start: int = 0, end: int | None = None) -> int:
        """How many entries between `start` and `end` remain."""
        assert dimension is not None
        return int((~np.isin(dimension[start:end], self.leaving)).sum())

    def changes(self, dimension: Dimension) -> bool:
        return dimension is not None and bool(np.isin(dimension, self.leaving).any())

    def set(self, name: str, value: Any) -> None:
        """Give the copy another value for an argument."""
        names = [argument.name for argument in self.node.target._schema.arguments]  # type: ignore[union-attr]
        place = names.index(name)
        if place < len(self.new.args):
            self.new.update_arg(place, value)
        else:
            self.new.update_kwarg(name, value)


def rewrite(call: Shrunk) -> None:
    """Give the copy of one call the sizes that remain."""
    rule = _RULES.get(call.name)
    if rule is not None:
        rule(call)


def _operand(call: Shrunk) -> tuple[fx.Node, tuple[Dimension, ...]]:
    operand = call.node.all_input_nodes[0]
    return operand, call.dimensions(operand)


def _shape(call: Shrunk) -> None:
    """view, reshape, unflatten, expand, fills: the numbers of the dimensions that shrink."""
    named, own = arguments(call.node), arguments(call.new)
    name = next(key for key in ("shape", "size", "sizes") if key in named)
    made = call.dimensions(call.node)
    first = named["dim"] % len(_operand(call)[1]) if name == "sizes" else 0
    given = list(own[name])
    for place, size in enumerate(given):
        dimension = made[first + place]
        if not call.changes(dimension):
            continue
        if isinstance(size, fx.Node):
            given[place] = _fewer(call, size, dimension)
        elif size != -1:
            given[place] = call.count(dimension)
    call.set(name, given)


def _fewer(call: Shrunk, size: fx.Node, dimension: Dimension) -> fx.Node:
    """A symbolic size along which labels repeat: so many times the labels that remain."""
    assert dimension is not None
    with call.new.graph.inserting_before(call.new):
        times = call.new.graph.call_function(operator.floordiv, (size, len(dimension)))
        return call.new.graph.call_function(operator.mul, (times, call.count(dimension)))


def _split(call: Shrunk) -> None:
    """split and chunk become split_with_sizes."""
    before = _operand(call)[1]
    dimension = arguments(call.node)["dim"] % len(before)
    if not call.changes(before[dimension]):
        return
    counts, start = [], 0
    for val in call.node.meta["val"]:
        counts.append(call.count(before[dimension], start, start + val.shape[dimension]))
        start += val.shape[dimension]
    call.new.target = _aten.split_with_sizes.default
    call.new.args, call.new.kwargs = (call.new.args[0], counts, dimension), {}


def _slice(call: Shrunk) -> None:
    operand, before = _operand(call)
    named = arguments(call.node)
    dimension = named["dim"] % len(before)
    size = operand.meta["val"].shape[dimension]
    if not call.changes(before[dimension]) or not isinstance(size, int):
        return
    if call.name == "narrow":
        start = named["start"] % size
        call.set("start", call.count(before[dimension], 0, start))
        call.set("length", call.count(before[dimension], start, start + named["length"]))
    else:
        start, end, _ = slice(named["start"], named["end"], None).indices(size)
        call.new.args = (call.new.args[0], dimension, call.count(before[dimension], 0, start), call.count(before[dimension], 0, end))
        call.new.kwargs = {}


def _pad(call: Shrunk) -> None:
    before = _operand(call)[1]
    after, amounts = call.dimensions(call.node), list(arguments(call.node)["pad"])
    for place in range(len(amounts) // 2):
        dimension = after[len(before) - 1 - place]
        left, right = amounts[2 * place : 2 * place + 2]
        if call.changes(dimension) and (left or right):
            assert dimension is not None
            amounts[2 * place : 2 * place + 2] = call.count(dimension, 0, left), call.count(dimension, len(dimension) - right)
    call.set("pad", amounts)


def _groups_of_convolution(call: Shrunk) -> None:
    named = arguments(call.node)
    x, weight = named["input"], named["weight"]
    channel = len(x.meta["val"].shape) - len(weight.meta["val"].shape) + 1
    dimension = call.dimensions(x)[channel]
    if named["groups"] > 1 and call.changes(dimension):
        assert dimension is not None
        call.set("groups", call.count(dimension) * named["groups"] // len(dimension))


def _groups_of_norm(call: Shrunk) -> None:
    before = _operand(call)[1]
    groups = arguments(call.node)["num_groups"]
    if groups > 1 and call.changes(before[1]):
        assert before[1] is not None
        call.set("num_groups", call.count(before[1]) * groups // len(before[1]))


def _normalized_shape(call: Shrunk) -> None:
    before = _operand(call)[1]
    shape = list(arguments(call.node)["normalized_shape"])
    trailing = before[-len(shape) :]
    call.set("normalized_shape", [call.count(d) if call.changes(d) else size for d, size in zip(trailing, shape, strict=True)])


def _scale(call: Shrunk) -> None:
    """The implicit scale is by the size of a head, the one before."""
    named = arguments(call.node)
    query = named["query"]
    if named["scale"] is None and call.changes(call.dimensions(query)[-1]):
        call.set("scale", 1 / sqrt(query.meta["val"].shape[-1]))


_RULES: dict[str, Callable[[Shrunk], None]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "unflatten", "expand", "broadcast_to"), _shape),
    **dict.fromkeys(("full", "zeros", "ones", "new_full", "new_zeros", "new_ones"), _shape),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"), _split),
    **dict.fromkeys(("slice", "narrow"), _slice),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys((f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)), _groups_of_convolution),
    "group_norm": _groups_of_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalized_shape),
    "scaled_dot_product_attention": _scale,
}
