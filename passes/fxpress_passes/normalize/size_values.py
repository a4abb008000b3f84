"""graph ==> the values that dynamic sizes, numbers and constants alone decide, and the sizes that each of them counts along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir.analysis.sizes import symbols
from fxpress_ir.ops import SHAPE_OPERATORS, arguments
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
LIKE = frozenset({_aten.ones_like, _aten.zeros_like, _aten.full_like, _aten.new_ones, _aten.new_zeros, _aten.new_full})
"""Operators that read the type and shape of their first operand, not its values."""
_UNWRITTEN = frozenset({_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided})
_SHAPES = frozenset({"size", "shape", "repeats"})
"""Names of arguments that say how large a result is, not what it holds."""
_ELEMENTWISE = frozenset({_aten.__and__, _aten.__or__, _aten.__xor__, _aten.where, _aten.floor_divide, _aten.to, _aten._to_copy})
"""Those without the tag ``pointwise``."""
_TAKING = frozenset({_aten.index, _aten.gather, _aten.index_select, _aten.embedding, _aten.select, _aten.repeat, _aten.cat, _aten.stack})
"""Operators whose result holds elements of their operands and nothing else."""
_ALONG = frozenset({_aten.cumsum, _aten.cumprod, _aten.diff, _aten.sum, _aten.mean, _aten.amax, _aten.amin, _aten.any, _aten.all})
"""Operators that combine elements along the dimensions that they name."""
_TRIANGLES = frozenset({_aten.tril, _aten.triu})


@dataclass(frozen=True)
class SizeValue:
    """What is known of a value without computing it.

    Attributes:
        depends: symbols of the sizes that it, or what it is computed from, has or reads.
        counts: those that it may count along, as ``arange(s)`` does; whatever stands along the others does not know how many
            there are, so that what repeats there at a few sizes repeats at all.
        computed: something before it computes, rather than moves a constant's elements.
    """

    depends: frozenset[str]
    counts: frozenset[str]
    computed: bool


def size_values(graph: fx.Graph) -> dict[fx.Node, SizeValue]:
    """Every value of the graph that no input's elements reach, in the graph's order."""
    found: dict[fx.Node, SizeValue] = {}
    for node in graph.nodes:
        if _decided(node, found):
            read = [found[used] for used in read_values(node) if used in found]
            leaves = tree_leaves((node.meta["val"], map_arg((node.args, node.kwargs), lambda used: used.meta["val"])))
            depends = frozenset(symbols(leaves)).union(*(value.depends for value in read))
            moves = node.target in SHAPE_OPERATORS and not _starts_at_a_size(node)
            found[node] = SizeValue(depends, _counts(node, found), not moves or any(value.computed for value in read))
    return found


def frontier(values: Mapping[fx.Node, SizeValue]) -> list[fx.Node]:
    """The last ones: computed, of a symbolic size, and read by something else."""
    return [
        node
        for node, value in values.items()
        if value.computed and value.depends and any(user not in values and not is_size(user) for user in node.users)
    ]


def read_values(node: fx.Node) -> list[fx.Node]:
    """The tensors whose elements a node reads."""
    kept = node.args[0] if _packet(node) in LIKE else None
    return [used for used in node.all_input_nodes if used is not kept and not is_size(used)]


def is_size(node: fx.Node) -> bool:
    """A number that is computed from sizes."""
    return node.op == "call_function" and not isinstance(node.meta.get("val"), (Tensor, tuple, list))


def is_elementwise(node: fx.Node) -> bool:
    """Each element of the result comes of the operands' elements at its place."""
    return torch.Tag.pointwise in node.target.tags or _packet(node) in _ELEMENTWISE  # type: ignore[union-attr]


def _packet(node: fx.Node) -> Any:
    return node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else None


def _decided(node: fx.Node, found: Mapping[fx.Node, SizeValue]) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or not isinstance(node.meta.get("val"), Tensor):
        return False
    if node.target.namespace != "aten" or _packet(node) in _UNWRITTEN or torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    return all(used in found or used.op == "get_attr" for used in read_values(node))


def _starts_at_a_size(node: fx.Node) -> bool:
    return node.target is _aten.slice.Tensor and any(isinstance(arguments(node)[bound], fx.Node) for bound in ("start", "step"))


def _counts(node: fx.Node, found: Mapping[fx.Node, SizeValue]) -> frozenset[str]:
    named = arguments(node)
    read = read_values(node)
    if node.target is _aten.index.Tensor:
        read = [named["self"], *_deciding(named["self"], named["indices"], found)]
    numbers = [value for name, value in named.items() if name not in _SHAPES and not _cuts_its_own_size(node, name)]
    scalars = [leaf.meta["val"] for leaf in tree_leaves(numbers) if isinstance(leaf, fx.Node) and is_size(leaf)]
    return frozenset(symbols([*scalars, *_combined(node, named)])).union(*(found[used].counts for used in read if used in found))


def _combined(node: fx.Node, named: Mapping[str, Any]) -> list[Any]:
    """The sizes of the operands along which an operator may tell one element from another."""
    packet = _packet(node)
    if node.target in SHAPE_OPERATORS or packet in _TAKING or is_elementwise(node):
        return []
    dims = [-2, -1] if packet in _TRIANGLES else named.get("dim") if packet in _ALONG else None
    shapes = [used.meta["val"].shape for used in read_values(node)]
    if dims is None or dims == []:
        return [size for shape in shapes for size in shape]
    return [shape[dim] for shape in shapes for dim in ([dims] if isinstance(dims, int) else dims)]


def _deciding(x: fx.Node, indices: Any, found: Mapping[fx.Node, SizeValue]) -> Iterator[fx.Node]:
    """The indices that decide which elements are taken; along a dimension where x repeats any index takes the same."""
    counts = found[x].counts if x in found else frozenset()
    for size, index in zip(x.meta["val"].shape, indices, strict=False):
        along = frozenset(symbols([size]))
        if index is not None and not (along and along.isdisjoint(counts)):
            yield index


def _cuts_its_own_size(node: fx.Node, name: str) -> bool:
    """``x[:s]`` of s elements."""
    if node.target is not _aten.slice.Tensor or name != "end":
        return False
    named = arguments(node)
    end = named["end"]
    return isinstance(end, fx.Node) and str(named["self"].meta["val"].shape[named["dim"]]) == str(end.meta["val"])
