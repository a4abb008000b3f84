"""operator, fake arguments ==> fake result, whose symbolic sizes hold at every size and not only at the example's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import SymFloat, SymInt, Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensorMode
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map

from .analysis.sizes import Example, concrete, concrete_size, symbols
from .errors import ProgramError

_WAY_ON = "the pass that made this node is wrong"
_DECOMPOSED = frozenset({torch.ops.aten.baddbmm.default})
"""Operators whose fake kernel takes no symbolic sizes unless it is decomposed."""


def fake_mode(graph: fx.Graph) -> FakeTensorMode:
    """The mode that the graph's fake values belong to."""
    return detect_fake_mode([node.meta.get("val") for node in graph.nodes]) or FakeTensorMode()


def propagated(node: fx.Node, mode: FakeTensorMode) -> Any:
    """The fake value of a call on the fake values of its arguments.

    Fake tensors decide on sizes by the example's, and remember it: ``view(x, [2, 8])`` would turn a symbolic batch whose
    example was 2 into the number 2 in all programs of the same capture. So nothing is remembered here, and the result is
    compared with the one at other sizes.

    Raises:
        ProgramError: the operator cannot take the arguments, or its result has another shape at other sizes.
    """
    where = f"{node.name} = {node.target}"
    args = map_arg((node.args, node.kwargs), lambda used: used.meta["val"])
    suppressed = mode.shape_env.suppress_guards() if mode.shape_env is not None else nullcontext()
    with suppressed:
        value = _called(node, args, mode, where)
    known = symbols(tree_leaves(args))
    if not known or not symbols(tree_leaves(value)).keys() <= known.keys() or None in known.values():
        return value
    sizes, there = _other_sizes(known), FakeTensorMode()
    other = _called(node, tree_map(lambda leaf: _resized(leaf, sizes, there), args), there, f"{where} at other sizes")
    if [_shape(leaf, sizes) for leaf in tree_leaves(value)] != [_shape(leaf, sizes) for leaf in tree_leaves(other)]:
        examples = {symbol: example.size for symbol, example in known.items() if example is not None}
        again = _unfrozen(value, other, args, examples, sizes, mode)
        if again is not None:
            return again
        raise ProgramError("its shape holds only at the example's sizes", where=where, way_on=_WAY_ON)
    return value


def _unfrozen(
    value: Any, other: Any, args: Any, examples: Mapping[str, int], sizes: Mapping[str, int], mode: FakeTensorMode
) -> Tensor | None:
    """A result some of whose sizes the operator's fake kernel froze at the example's (``aten.pad`` does), made symbolic again.

    Where a size moved with a dimension of the arguments, from its example's size to its other size, it is that dimension.
    """
    if not isinstance(value, Tensor) or not isinstance(other, Tensor) or value.dim() != other.dim():
        return None
    dynamic = [size for leaf in tree_leaves(args) if isinstance(leaf, Tensor) for size in leaf.shape if isinstance(size, SymInt)]
    shape: list[Any] = []
    for here, there in zip(value.shape, other.shape, strict=True):
        moved = [size for size in dynamic if concrete_size(size, examples) == here and concrete_size(size, sizes) == there]
        shape.append(here if concrete_size(here, sizes) == there else moved[0] if moved and isinstance(here, int) else None)
    if None in shape:
        return None
    with mode:
        return torch.empty(shape, dtype=value.dtype, device=value.device)


def _called(node: fx.Node, args: Any, mode: FakeTensorMode, where: str) -> Any:
    try:
        with mode, torch.no_grad(), enable_python_dispatcher() if node.target in _DECOMPOSED else nullcontext():
            return node.target(*args[0], **args[1])  # type: ignore[operator]
    except Exception as error:  # fake kernels raise whatever their authors chose
        raise ProgramError(f"shapes do not propagate: {error}", where=where, way_on=_WAY_ON) from error


def _other_sizes(known: Mapping[str, Example | None]) -> dict[str, int]:
    """For each symbol another multiple of the example's size, where its range allows: what divides goes on dividing."""
    sizes = {}
    for position, (symbol, example) in enumerate(sorted(known.items())):
        assert example is not None
        wanted = example.size * (2 * position + 3)
        sizes[symbol] = wanted if example.most is None or wanted <= example.most else example.size
    return sizes


def _resized(leaf: Any, sizes: Mapping[str, int], mode: FakeTensorMode) -> Any:
    if isinstance(leaf, (SymInt, SymFloat)):
        return concrete(leaf, sizes)
    if not isinstance(leaf, Tensor):
        return leaf
    shape, stride = ([concrete_size(size, sizes) for size in part] for part in (leaf.shape, leaf.stride()))
    with mode:
        return torch.empty_strided(shape, stride, dtype=leaf.dtype, device=leaf.device)


def _shape(leaf: Any, sizes: Mapping[str, int]) -> Any:
    return [concrete_size(size, sizes) for size in leaf.shape] if isinstance(leaf, Tensor) else concrete(leaf, sizes)
