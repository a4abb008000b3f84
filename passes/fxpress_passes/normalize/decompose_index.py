"""x[arange(n)[:, None], arange(m)] of all n and m ==> x, with dimensions of size 1 where the indices have theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..contract import Context, Exact, Pass, Promise

_aten = torch.ops.aten


@dataclass(frozen=True)
class DecomposeIndex(Pass):
    """Write as a view what takes every element at its own place, as functions of positions do that `vmap` has spread.

    An index counts 0, 1, 2, ... along one dimension to the end of the one that it takes from: computed, or a constant that
    does, or the beginning of one.
    """

    name: ClassVar[str] = "decompose-index"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        found: dict[fx.Node, list[int]] = {}
        for node in program.graph.find_nodes(op="call_function", target=_aten.index.Tensor):
            new = _new_dimensions(program, node)
            if new is not None:
                found[node] = new
        if not found:
            return program
        edit = program.edit()
        for node, new in found.items():
            here = edit.here(node)
            with edit.graph.inserting_before(here):
                viewed = _written_out(edit, here, new)
            edit.replace(here, viewed)
        return edit.finish()


def _new_dimensions(program: Program, node: fx.Node) -> list[int] | None:
    """The dimensions of the result that the operand has not, None where elements change places."""
    named = arguments(node)
    indices: list[fx.Node | None] = list(named["indices"])
    first = next(position for position, index in enumerate(indices) if index is not None)
    taking = [index for index in indices[first:] if index is not None]
    if len(taking) < len(indices) - first:
        return None
    rank = max(index.meta["val"].dim() for index in taking)
    sizes = named["self"].meta["val"].shape
    axes: list[int] = []
    for index, size in zip(taking, sizes[first:], strict=False):
        axis = _axis(index, size, rank, axes[-1] + 1 if axes else 0)
        if axis is None or not _counts(program, index):
            return None
        axes.append(axis)
    return [first + dimension for dimension in range(rank) if dimension not in axes]


def _axis(index: fx.Node, size: int | torch.SymInt, rank: int, least: int) -> int | None:
    """The dimension, of `rank` ones, along which an index of `size` numbers has them all; not before `least`."""
    if index.meta["val"].dtype not in (torch.int32, torch.int64):
        return None
    # as text, because a comparison of symbolic sizes would be remembered as a fact about them
    shape = [str(length) for length in index.meta["val"].shape]
    shape = ["1"] * (rank - len(shape)) + shape
    long = [dimension for dimension, length in enumerate(shape) if length != "1"] or [least]
    return long[0] if len(long) == 1 and least <= long[0] < rank and shape[long[0]] == str(size) else None


def _counts(program: Program, index: fx.Node) -> bool:
    """The numbers are 0, 1, 2, ... in order; all dimensions but one have size 1."""
    if index.op == "get_attr":
        values: Tensor = program.tensors[str(index.target)]
        in_line = max(values.shape, default=1) == values.numel()
        return in_line and torch.equal(values.reshape(-1), torch.arange(values.numel(), dtype=values.dtype))
    if index.op != "call_function":
        return False
    named = arguments(index) if isinstance(index.target, torch._ops.OpOverload) else {}
    if index.target in (_aten.arange.default, _aten.arange.start):
        return not isinstance(named.get("start"), fx.Node) and not named.get("start")
    adds_nothing = index.target is _aten.add.Tensor and not isinstance(named["other"], fx.Node) and named["other"] == 0
    beginning = index.target is _aten.slice.Tensor and not named["start"] and named["step"] == 1
    if index.target is _aten.unsqueeze.default or adds_nothing or beginning:
        return _counts(program, named["self"])
    return False


def _written_out(edit: Edit, node: fx.Node, new: list[int]) -> fx.Node:
    x: fx.Node = arguments(node)["self"]
    if _is_dense(node.meta["val"]) and not _is_dense(x.meta["val"]):
        x = edit.call(_aten.contiguous.default, x, like=node)  # what reads a result in order may view it
    for dimension in new:
        x = edit.call(_aten.unsqueeze.default, x, dimension, like=node)
    return x


def _is_dense(value: Tensor) -> bool:
    """In order in memory, at every size that a symbolic dimension can have."""
    stride: int | torch.SymInt = 1
    for size, found in reversed(list(zip(value.shape, value.stride(), strict=True))):
        if not statically_known_true(size == 1) and not statically_known_true(found == stride):
            return False
        stride = stride * size
    return True
