"""integer program ==> the interval of every value and the facts that no arithmetic leaves its declared width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ..ops import INTEGER_OPERATORS, LOGIC_OPERATORS, LOOKUP_OPERATORS, SHAPE_OPERATORS, Fact, Interval

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_LIMITS = {
    torch.bool: Interval.of(0, 1),
    **{dtype: Interval.of(torch.iinfo(dtype).min, torch.iinfo(dtype).max) for dtype in _INTEGERS},
}


@dataclass(frozen=True)
class Ranges:
    """Intervals by node, facts in program order, and the nodes that no proof rule covers."""

    intervals: Mapping[fx.Node, Interval]
    facts: tuple[Fact, ...]
    unproved: tuple[fx.Node, ...]


def integer_ranges(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> Ranges:
    """Interval arithmetic from the inputs' types and the actual weights."""
    intervals: dict[fx.Node, Interval] = {}
    facts: list[Fact] = []
    unproved: list[fx.Node] = []
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and value.dtype in _LIMITS:
            intervals[node] = _LIMITS[value.dtype]
        elif node.op == "get_attr" and value.dtype in _LIMITS and value.numel():
            tensor = tensors[str(node.target)]
            intervals[node] = Interval.of(int(tensor.min()), int(tensor.max()))
        elif node.op != "call_function" or not isinstance(value, Tensor):
            continue
        elif node.target in SHAPE_OPERATORS | LOOKUP_OPERATORS and node.args[0] in intervals:
            intervals[node] = intervals[node.args[0]].hull()
        elif node.target in LOGIC_OPERATORS and _known(node, intervals):
            intervals[node] = _LIMITS[torch.bool]
        elif node.target in INTEGER_OPERATORS and _known(node, intervals):
            proof = INTEGER_OPERATORS[node.target].prove(node, intervals, tensors)  # type: ignore[misc]
            intervals[node] = proof.interval
            facts += proof.facts
        elif not value.dtype.is_floating_point:
            unproved.append(node)
    return Ranges(intervals, tuple(facts), tuple(unproved))


def _known(node: fx.Node, intervals: Mapping[fx.Node, Interval]) -> bool:
    """Every integer operand has an interval; floats enter by ``fxp::quantize``."""
    operands = [used for used in node.all_input_nodes if isinstance(used.meta.get("val"), Tensor)]
    return all(used in intervals or used.meta["val"].dtype.is_floating_point for used in operands)
