"""Operators between a source and an end, run as the graph runs them, on values of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fxpress_ir.analysis.sizes import concrete, concrete_size, symbols
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from .constants import Constants


def drawn(source: fx.Node, parts: Sequence[fx.Node], seed: int, rows: int = 0) -> tuple[Tensor, dict[str, int]]:
    """Random values of the source at the sizes of the captured example, and those sizes by symbol.

    Args:
        rows: of the table that the source numbers, where it is integers.
    """
    values = [node.meta["val"] for part in parts for node in (part, *part.all_input_nodes)]
    examples = symbols(leaf for value in values for leaf in (value if isinstance(value, (tuple, list)) else (value,)))
    sizes = {symbol: 2 if example is None else example.size for symbol, example in examples.items()}
    shape = [concrete_size(size, sizes) for size in source.meta["val"].shape]
    generator, dtype = torch.Generator().manual_seed(seed), source.meta["val"].dtype
    if rows:
        return torch.randint(0, rows, shape, generator=generator, dtype=dtype), sizes
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype), sizes


def replayed(source: fx.Node, value: Tensor, parts: Sequence[fx.Node], constants: Constants, sizes: Mapping[str, int]) -> Tensor:
    """What the last part gives where the source has this value."""
    known: dict[fx.Node, Any] = {source: value}

    def operand(node: fx.Node) -> Any:
        if node in known:
            return known[node]
        return constants.value(node) if constants.has(node) else concrete(node.meta["val"], sizes)

    with torch.no_grad():
        for part in parts:
            args, kwargs = map_arg((part.args, part.kwargs), operand)
            args, kwargs = tree_map(lambda leaf: concrete(leaf, sizes), (args, kwargs))
            known[part] = part.target(*args, **kwargs)  # type: ignore[operator]
    result: Tensor = known[parts[-1]]
    return result
