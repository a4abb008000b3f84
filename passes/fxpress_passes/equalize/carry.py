"""A path of moves and attention ==> whether blocks of channels come out of it as blocks, so that a matrix over each passes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.sizes import concrete, concrete_size, symbols
from fxpress_ir.ops import SHAPE_OPERATORS
from torch import Tensor, fx
from torch.fx.node import map_arg

_aten = torch.ops.aten


def path_to(value: fx.Node, producer: fx.Node) -> list[fx.Node]:
    """The nodes from `producer` to `value`: shape operators, and attention's products with what its probabilities weigh."""
    path = [value]
    while path[-1] is not producer:
        path.append(path[-1].args[1 if path[-1].target is _aten.matmul.default else 0])  # type: ignore[arg-type]
    return path[::-1]


def carries(program: Program, path: Sequence[fx.Node], block: int, axis: int = -1) -> bool:
    """Whether every `block` channels at the end of a path, in the last dimension, are `block` at its beginning, along `axis`, in order.

    The places of a value of the example's sizes are numbered and sent along. A product with probabilities, the same for all
    channels, begins anew.

    Args:
        path: a value, then shape operators and products with probabilities, each of the one before.
    """
    examples = symbols(node.meta["val"] for node in program.graph.find_nodes(op="placeholder"))
    sizes = {name: 2 if example is None else max(2, example.size) for name, example in examples.items()}
    held = _numbered(path[0], axis, sizes)
    if not held.dim() or held.shape[axis] % block:
        return False
    for source, node in pairwise(path):
        if node.target is _aten.matmul.default:
            if not _are_blocks(held, block):
                return False
            held = _numbered(node, -1, sizes)
        elif node.target in SHAPE_OPERATORS:
            held = _moved(node, source, held, sizes)
        else:
            return False
    return _are_blocks(held, block)


def _numbered(value: fx.Node, axis: int, sizes: Mapping[str, int]) -> Tensor:
    """The number of each place, neighbours along `axis` one after another."""
    shape = [concrete_size(size, sizes) for size in value.meta["val"].shape]
    if not shape:
        return torch.zeros(())
    shape.append(shape.pop(axis))
    return torch.arange(torch.Size(shape).numel()).reshape(shape).movedim(-1, axis)


def _are_blocks(held: Tensor, block: int) -> bool:
    if not held.dim() or held.shape[-1] % block:
        return False
    parts = held.reshape(-1, block)
    first = parts[:, :1]
    return bool((first % block == 0).all()) and torch.equal(parts, first + torch.arange(block))


def _moved(node: fx.Node, source: fx.Node, held: Tensor, sizes: Mapping[str, int]) -> Tensor:
    def value(used: fx.Node) -> Any:
        return held if used is source else concrete(used.meta["val"], sizes)

    args, kwargs = map_arg((node.args, node.kwargs), value)
    result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return result
