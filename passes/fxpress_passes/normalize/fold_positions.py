"""f(sizes, constants) ==> constant at the largest sizes, cut to the sizes that there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.digest import digest
from torch import Tensor, fx

from ..contract import Context, Exact, Pass, Promise
from .masks import drop_mask, needless_masks
from .size_values import frontier, is_size, size_values
from .tables import STAYS, Table, Tables, Unfit

_aten = torch.ops.aten


@dataclass(frozen=True)
class FoldPositions(Pass):
    """Compute once what depends on the lengths of dynamic dimensions alone: positions, their embeddings and angles, causal masks.

    A value is computed at the maxima that the dimensions were captured with (``Dim("seq", max=64)``), held to be the
    beginning of that at every size, and becomes ``aten.slice`` of a constant, then ``aten.expand`` along dimensions in which
    it repeats, the batch above all. Masks of attention that hide nothing go, and those that are causal become ``is_causal``.

    Options:
        max_bytes: of one value at the largest sizes; a larger one stays computed.
        max_checked: elements that may be computed to see that one value begins alike at every size.
    """

    name: ClassVar[str] = "fold-positions"
    promise: ClassVar[Promise] = Exact()
    max_bytes: int = 1 << 28
    max_checked: int = 1 << 35

    def apply(self, program: Program, context: Context) -> Program:
        values = size_values(program.graph)
        tables = Tables(program, values, self.max_bytes, self.max_checked)
        found: dict[fx.Node, Table] = {}
        for node in frontier(values):
            table = tables.of(node)
            unfit = table if isinstance(table, Unfit) else _unsized(node, table)
            if isinstance(table, Table) and unfit is None:
                found[node] = table
            elif unfit is not None:
                context.refuse(node, unfit.reason, unfit.way_on)

        def table_of(mask: fx.Node) -> Tensor | None:
            table = tables.of(mask) if mask in values else None
            return program.tensors[str(mask.target)] if mask.op == "get_attr" else table.values if isinstance(table, Table) else None

        unmasked = needless_masks(program, table_of, context)
        if not found and not unmasked:
            return program
        edit = program.edit()
        for call in unmasked:
            drop_mask(edit.here(call.node), call.causal)
        writer = _Writer(edit)
        for node, table in found.items():
            here = edit.here(node)
            if here.users:
                edit.replace(here, writer.cut(here, table))
        return edit.finish()


def _size(graph: fx.Graph, size: str, before: fx.Node) -> fx.Node | None:
    """The node that gives a symbolic size, if one stands before `before`."""
    return next((node for node in graph.nodes if is_size(node) and str(node.meta.get("val")) == size and node < before), None)


def _dimension(graph: fx.Graph, size: str) -> tuple[fx.Node, int] | None:
    """The input and its dimension that a symbolic size is."""
    for node in graph.find_nodes(op="placeholder"):
        for dimension, candidate in enumerate(node.meta["val"].shape):
            if str(candidate) == size:
                return node, dimension
    return None


def _needed(node: fx.Node, table: Table) -> dict[int, str]:
    """For each symbolic dimension the size that it is cut to, or how often it repeats."""
    cut = {d: str(size) for d, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)}
    return cut | {repeat.dimension: repeat.symbol for repeat in table.repeats}


def _unsized(node: fx.Node, table: Table) -> Unfit | None:
    for size in _needed(node, table).values():
        if _size(node.graph, size, node) is None and _dimension(node.graph, size) is None:
            return Unfit(f"nothing gives its size {size}", STAYS)
    return None


class _Writer:
    """Writes tables and what is cut from them into an edit, equal ones once."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._tensors: dict[str, fx.Node] = {}
        self._cut: dict[tuple[Any, ...], fx.Node] = {}

    def cut(self, node: fx.Node, table: Table) -> fx.Node:
        """What replaces `node`, before it."""
        content, needed = digest(table.values), _needed(node, table)
        key = (content, table.repeats, *needed.items())
        if key not in self._cut:
            with self._edit.graph.inserting_before(node):
                if content not in self._tensors:
                    self._tensors[content] = self._edit.add_tensor(f"positions.{node.name}", table.values)
                sizes = {dimension: self._given(size, node) for dimension, size in needed.items()}
                self._cut[key] = self._written(self._tensors[content], table, sizes, node)
        return self._cut[key]

    def _given(self, size: str, node: fx.Node) -> fx.Node:
        known, dimension = _size(self._edit.graph, size, node), _dimension(self._edit.graph, size)
        if known is not None:
            return known
        assert dimension is not None, "apply refuses other sizes"
        return self._edit.call(_aten.sym_size.int, *dimension)

    def _written(self, value: fx.Node, table: Table, sizes: Mapping[int, fx.Node], node: fx.Node) -> fx.Node:
        """Slices to sizes; blocks that repeat are expanded along a dimension of their own before they join the next."""

        def move(target: Any, *arguments: Any) -> None:
            nonlocal value
            value = self._edit.call(target, value, *arguments, like=node)

        repeats = {repeat.dimension: repeat.block for repeat in table.repeats}
        for dimension in sorted(sizes.keys() - repeats.keys()):
            move(_aten.slice.Tensor, dimension, 0, sizes[dimension])
        if not repeats:
            return value
        blocks = sorted((dimension for dimension, block in repeats.items() if block > 1), reverse=True)
        wanted: list[Any] = []
        for dimension in range(table.values.dim()):
            size = sizes[dimension] if dimension in repeats else -1
            wanted += [size, -1] if dimension in blocks else [size]
        for dimension in blocks:
            move(_aten.unsqueeze.default, dimension)
        move(_aten.expand.default, wanted)
        for number, dimension in enumerate(blocks):
            first = dimension + len(blocks) - 1 - number
            move(_aten.flatten.using_ints, first, first + 1)
        return value
