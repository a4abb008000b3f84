"""What the planner reads off a graph: sizes, orders of dimensions, readers, and what runs in another operator's registers."""

from __future__ import annotations

import torch
from fxpress_ir.ops import LOOKUP_OPERATORS, SHAPE_OPERATORS, arguments
from torch import fx

_aten, _fxp = torch.ops.aten, torch.ops.fxp

IMAGE_OPERATORS = frozenset(
    operator.default for operator in (_fxp.conv2d, _fxp.max_pool2d, _fxp.sum_pool2d, _fxp.select2d, _fxp.insert_zeros, _fxp.pad2d)
)
"""Their kernels read and write images, whose channels lie innermost."""
ROW_OPERATORS = LOOKUP_OPERATORS | {
    operator.default for operator in (_fxp.linear, _fxp.matmul, _fxp.softmax, _fxp.attention, _fxp.normalize, _fxp.rotary, _fxp.positions)
}
"""Their kernels read and write rows; what lies otherwise is copied before and after."""


PICKING = frozenset({_aten.slice.Tensor, _aten.select.int, _aten.expand.default})
"""Shape operators that read some elements, or one again and again."""


def dtype_of(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def plain_name(node: fx.Node) -> str:
    """The name of a node's value as callers and islands see it."""
    return f"{node.name}.plain"


def sizes_of(node: fx.Node) -> tuple[str, ...]:
    """The shape as text, so that symbolic sizes compare without a guard."""
    return tuple(map(str, node.meta["val"].shape))


def permutation_of(node: fx.Node) -> tuple[int, ...] | None:
    """The order of dimensions that a permute or transpose takes; None for operators that keep the order of elements."""
    named, rank = arguments(node), len(node.meta["val"].shape)
    if node.target is _aten.permute.default:
        return tuple(dimension % rank for dimension in named["dims"])
    if node.target is _aten.transpose.int:
        first, second = named["dim0"] % rank, named["dim1"] % rank
        swapped = {first: second, second: first}
        return tuple(swapped.get(d, d) for d in range(rank))
    return None


def is_identity(node: fx.Node) -> bool:
    """A shape operator that changes neither the shape nor the order of elements."""
    if node.target not in SHAPE_OPERATORS:
        return False
    order = permutation_of(node)
    return sizes_of(arguments(node)["self"]) == sizes_of(node) and (order is None or order == tuple(range(len(order))))


def is_fixed(node: fx.Node) -> bool:
    """A tensor of the program, or what only moves one by numbers."""
    if node.op == "get_attr" or node.target not in SHAPE_OPERATORS:
        return node.op == "get_attr"
    by_numbers = len(node.all_input_nodes) == 1 and all(isinstance(size, int) for size in node.meta["val"].shape)
    return by_numbers and is_fixed(node.all_input_nodes[0])


def origin(node: fx.Node) -> fx.Node:
    """The node whose value a chain of identities repeats."""
    return origin(arguments(node)["self"]) if is_identity(node) else node


def readers(node: fx.Node) -> list[fx.Node]:
    """The operators that read a node's value, seen through identities; the output node counts as one."""
    return [reader for user in node.users for reader in (readers(user) if is_identity(user) else [user])]


def epilogue_of(node: fx.Node, image: bool = True) -> fx.Node | None:
    """The requantisation per channel that alone reads an accumulator: it runs in the registers of the accumulating kernel.

    Args:
        image: a tensor of four dimensions has its channels in dimension 1; otherwise in the last.
    """
    if [user.target for user in node.users] != [_fxp.requantize.default]:
        return None
    user = next(iter(node.users))
    rank = len(node.meta["val"].shape)
    channel = 1 if rank == 4 and image and node.target not in ROW_OPERATORS else rank - 1
    named = arguments(user)
    return user if named["b"].meta["val"].numel() == 1 or named["axis"] % rank == channel else None


def addition_of(node: fx.Node) -> fx.Node | None:
    """The addition that runs in the registers of a requantised convolution: its only reader, of two summands of equal sizes.

    Where both summands are such convolutions the later one takes the addition.
    """
    addition = _only_addition(node)
    if addition is None:
        return None
    named = arguments(addition)
    other = named["y"] if named["x"] is node else named["x"]
    alike = other is not node and sizes_of(other) == sizes_of(addition) == sizes_of(node)
    return addition if alike and (_only_addition(other) is None or other < node) else None


def _only_addition(node: fx.Node) -> fx.Node | None:
    if node.target is not _fxp.requantize.default or [user.target for user in node.users] != [_fxp.add.default]:
        return None
    x = arguments(node)["x"]
    return next(iter(node.users)) if x.target is _fxp.conv2d.default and epilogue_of(x) is node else None
