"""Operators between a source and an end, run as the graph runs them, on random values of the source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fxpress_ir.analysis.sizes import concrete, concrete_size, symbols
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from .constants import Constants


def replayed(source: fx.Node, parts: Sequence[fx.Node], constants: Constants, seed: int, rows: int = 0) -> tuple[Tensor, Tensor]:
    """The source's values and the last part's, at the sizes of the captured example.

    Args:
        rows: of the table that the source numbers, where it is integers.
    """
    values = [node.meta["val"] for part in parts for node in (part, *part.all_input_nodes)]
    examples = symbols(leaf for value in values for leaf in (value if isinstance(value, (tuple, list)) else (value,)))
    sizes = {symbol: 2 if example is None else example.size for symbol, example in examples.items()}
    drawn = _drawn(source.meta["val"], sizes, seed, rows)
    known: dict[fx.Node, Any] = {source: drawn}

    def operand(node: fx.Node) -> Any:
        if node in known:
            return known[node]
        return constants.value(node) if constants.has(node) else concrete(node.meta["val"], sizes)

    with torch.no_grad():
        for part in parts:
            args, kwargs = map_arg((part.args, part.kwargs), operand)
            args, kwargs = tree_map(lambda leaf: concrete(leaf, sizes), (args, kwargs))
            known[part] = part.target(*args, **kwargs)  # type: ignore[operator]
    return drawn, known[parts[-1]]


def _drawn(value: Tensor, sizes: dict[str, int], seed: int, rows: int) -> Tensor:
    shape = [concrete_size(size, sizes) for size in value.shape]
    generator = torch.Generator().manual_seed(seed)
    if rows:
        return torch.randint(0, rows, shape, generator=generator, dtype=value.dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(value.dtype)
