"""nodes of a program that are computed together ==> how much there is to compute, to read and to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from fxpress_ir import Program
from fxpress_ir.analysis.cost import macs
from fxpress_ir.analysis.sizes import concrete_size
from torch import Tensor, fx


@dataclass(frozen=True)
class Work:
    """One group.

    Attributes:
        macs: multiply-accumulates.
        read: bytes of values and constants from elsewhere, each once.
        written: bytes of values that others read.
        elements: of the last result.
    """

    macs: int
    read: int
    written: int
    elements: int


class Measure:
    """A program at given sizes of all its dynamic dimensions: work of groups, and how their time is shared."""

    def __init__(self, program: Program, sizes: Mapping[str, int]) -> None:
        self._nodes = {node.name: node for node in program.graph.nodes}
        self._symbols = {symbol: sizes[name] for symbol, name in program.symbols().items()}

    def work(self, names: Sequence[str]) -> Work:
        nodes = [self._nodes[name] for name in names]
        inside = set(nodes)
        read = {used for node in nodes for used in node.all_input_nodes} - inside
        written = [node for node in nodes if any(user not in inside for user in node.users)]
        return Work(
            sum(self.macs(name) for name in names), sum(map(self._bytes, read)), sum(map(self._bytes, written)), self._elements(nodes[-1])
        )

    def macs(self, name: str) -> int:
        return macs(self._nodes[name], self._symbols)

    def shares(self, names: Sequence[str]) -> dict[str, float]:
        """Of a group's time, by multiply-accumulates; all to the node with most elements where there are none."""
        counts = {name: self.macs(name) for name in names}
        total = sum(counts.values())
        if total:
            return {name: count / total for name, count in counts.items()}
        heaviest = max(names, key=lambda name: self._elements(self._nodes[name]))
        return {name: float(name == heaviest) for name in names}

    def _elements(self, node: fx.Node) -> int:
        return sum(prod(concrete_size(size, self._symbols) for size in value.shape) for value in _tensors(node.meta.get("val")))

    def _bytes(self, node: fx.Node) -> int:
        values = _tensors(node.meta.get("val"))
        return sum(prod(concrete_size(size, self._symbols) for size in value.shape) * value.element_size() for value in values)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (list, tuple)):
        return [item for item in value if isinstance(item, Tensor)]
    return [value] if isinstance(value, Tensor) else []
