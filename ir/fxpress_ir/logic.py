"""program ==> what its comparisons and its logic compute on that an integer stage may not: a rule of the verifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from .ops import COMPARISONS, LOGIC_OPERATORS, arguments
from .program import Program

Found = Iterator[tuple[fx.Node, str]]


def logic_of_integers(program: Program) -> Found:
    """Outside of float islands integers are compared with integers of their type, and booleans are made of booleans."""
    for node in program.graph.nodes:
        if node.target not in LOGIC_OPERATORS or node.name in program.islands:
            continue
        for operand in node.all_input_nodes:
            dtype = operand.meta["val"].dtype
            if node.target not in COMPARISONS and dtype != torch.bool:
                yield node, f"{operand.name} is {dtype}, expected torch.bool"
            elif node.target in COMPARISONS:
                yield from _comparison(node, dtype, arguments(node)["other"])


def _comparison(node: fx.Node, dtype: torch.dtype, number: Any) -> Found:
    if dtype == torch.bool or dtype.is_floating_point or dtype.is_complex:
        yield node, f"it compares {dtype}, expected an integer type"
    elif type(number) is not int or not torch.iinfo(dtype).min <= number <= torch.iinfo(dtype).max:
        yield node, f"it compares {dtype} with {number}, which is no number of that type"
