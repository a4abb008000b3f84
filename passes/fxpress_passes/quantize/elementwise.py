"""y = f(x), elementwise and with constants only ==> a table of f, however many operators f is written in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fxpress_ir.analysis.cones import constant_axis
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.fx.node import map_arg

_aten = torch.ops.aten


def bounds(node: fx.Node) -> tuple[float, float]:
    """The lower and upper bound of a clamp."""
    named = arguments(node)
    if node.target is _aten.relu.default:
        return 0.0, float("inf")
    if node.target is _aten.relu6.default:
        return 0.0, 6.0
    low, high = named.get("min_val", named.get("min")), named.get("max_val", named.get("max"))
    return float("-inf") if low is None else float(low), float("inf") if high is None else float(high)


def tabulate(tip: fx.Node, root: fx.Node, between: list[fx.Node], values: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """The function of a cone at `values` (float32, [n]): a tensor [channels or 1, n] and the channels' axis.

    Raises:
        PassError: the function is not a number somewhere.
    """
    axes = {axis for axis in map(constant_axis, between) if isinstance(axis, int)}
    axis = next(iter(axes), 1)
    shape = root.meta["val"].shape
    channels = shape[axis] if axes else 1
    layout = [len(values), *[1] * (len(shape) - 1)]
    grid = values.reshape(layout).expand([len(values), *(channels if d == axis else 1 for d in range(1, len(shape)))])
    known: dict[fx.Node, Any] = {root: grid}

    def operand(node: fx.Node) -> Any:
        return tensors[str(node.target)].detach() if node.op == "get_attr" else known[node]

    for node in between:
        args, kwargs = map_arg((node.args, node.kwargs), operand)
        with torch.no_grad():
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    found: Tensor = known[tip].reshape(len(values), channels).T
    if bool(found.isnan().any()):
        where = values[int(found.isnan().any(0).nonzero()[0])]
        raise PassError(
            f"it is not a number at {float(where):g}", where=f"node {tip.name}", way_on="clamp its input to where it is defined"
        )
    return found, axis
