"""value that sizes decide, numbers for the symbols ==> the tensor that it is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.analysis.sizes import concrete, concrete_size
from torch import Tensor, fx
from torch.fx.node import map_arg

from .size_values import is_size, read_values

Sizes = Mapping[str, int]
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


def steps_to(node: fx.Node, values: Collection[fx.Node]) -> list[fx.Node]:
    """Those of `values`, in their order, that a value is computed from; itself last."""
    wanted, left = {node}, [node]
    while left:
        new = [used for used in read_values(left.pop()) if used in values and used not in wanted]
        wanted.update(new)
        left += new
    return [step for step in values if step in wanted]


def computed(program: Program, steps: Sequence[fx.Node], sizes: Sizes) -> Tensor:
    """The value of the last step, by the operators of the program themselves."""
    found: dict[fx.Node, Any] = {}

    def value(used: fx.Node) -> Any:
        if used not in found:
            found[used] = _outside(program, used, sizes)
        return found[used]

    with torch.no_grad():
        for node in steps:
            args, kwargs = map_arg((node.args, node.kwargs), value)
            found[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    result: Tensor = found[steps[-1]]
    return result


def _outside(program: Program, used: fx.Node, sizes: Sizes) -> Any:
    """A constant, a size, or an operand whose elements are not read."""
    if used.op == "get_attr":
        return program.tensors[str(used.target)]
    kind = used.meta["val"]
    if is_size(used):
        return concrete(kind, sizes)
    return torch.empty([concrete_size(s, sizes) for s in kind.shape], dtype=kind.dtype, device=kind.device)


def begins(whole: Tensor, part: Tensor) -> bool:
    """`part` is `whole` cut to its shape, bit for bit."""
    if whole.dtype != part.dtype or whole.dim() != part.dim() or any(a > b for a, b in zip(part.shape, whole.shape, strict=True)):
        return False
    return same_bits(whole[tuple(map(slice, part.shape))], part)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """As whole numbers: NaN equals itself, and -0 is not 0. NumPy compares twenty times as fast as torch."""
    one, two = (value.detach().cpu().contiguous().reshape(-1).view(_INTEGERS[value.element_size()]).numpy() for value in (a, b))
    return np.array_equal(one, two)
