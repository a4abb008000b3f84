"""What a rule sees of one operator call: its arguments by name, its operands' dimensions, and where to note what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import SymInt, Tensor, fx

from ...ops.library import arguments
from .ties import ONE, Axis, Ids, Labels, Ties, Value

Result = Value | list[Value]


class Call:
    """One operator call under analysis."""

    def __init__(self, node: fx.Node, values: Mapping[fx.Node, Any], ties: Ties, choices: Mapping[fx.Node, int]) -> None:
        self.node, self.values, self.ties, self._choices = node, values, ties, choices
        self.split: tuple[Ids, int] | None = None

    @property
    def name(self) -> str:
        """The operator's name, overload left out."""
        return str(getattr(self.node.target, "_opname", getattr(self.node.target, "__name__", "")))

    @property
    def where(self) -> str:
        return f"{self.name} at {self.node.name}"

    @cached_property
    def named(self) -> dict[str, Any]:
        return arguments(self.node)

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def first(self) -> fx.Node:
        """The first operand, whatever its name."""
        operand = next(iter(self.named.values()))
        assert isinstance(operand, fx.Node)
        return operand

    def value(self, node: fx.Node) -> Value:
        value: Value = self.values[node]
        return value

    def optional(self, name: str) -> Value | None:
        """The dimensions of an operand that may be None or absent."""
        node = self.named.get(name)
        return self.value(node) if isinstance(node, fx.Node) else None

    @property
    def shape(self) -> Sequence[Any]:
        """The result's sizes; for several results the first's."""
        val = self.node.meta["val"]
        shape: Sequence[Any] = (val if isinstance(val, Tensor) else val[0]).shape
        return shape

    def choice(self, labels: Ids, candidates: int) -> int:
        """Which of several factors carries the labels of a dimension that is divided; 0 unless that left nothing to remove."""
        self.split = labels, candidates
        return self._choices.get(self.node, 0)

    def stays(self, what: str) -> Axis:
        """A dimension of the result that cannot shrink."""
        return Axis(f"{what} by {self.where}")

    def pin(self, axes: Sequence[Axis], what: str) -> None:
        """The entries along `axes` stay."""
        for axis in axes:
            self.ties.pin(axis.labels, f"{what} by {self.where}")

    def lose(self, labels: Labels, what: str) -> None:
        self.ties.lose(labels, f"{what} by {self.where}")

    def contract(self, *axes: Axis) -> None:
        """A sum of products over dimensions that run together: masked zeros in one operand are enough."""
        labels = self.ties.tie(*(axis.labels for axis in axes))
        if isinstance(labels, str):
            return
        self.ties.consumers.append((labels, self.node))
        if not any(axis.zero for axis in axes):
            self.lose(labels, "values that zeros do not reach are summed")

    def produce(self, axis: Axis, bias: Value | None) -> Axis:
        """The dimension that a layer makes out of its weight's, its bias [size] tied to it."""
        labels, zero = axis.labels, axis.zero
        if bias is not None:
            labels, zero = self.ties.tie(labels, bias[-1].labels), zero and bias[-1].zero
        if not isinstance(labels, str):
            self.ties.producers.append((labels, self.node))
        return Axis(labels, zero)


def sizes(node: fx.Node) -> Sequence[Any]:
    shape: Sequence[Any] = node.meta["val"].shape
    return shape


def is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def unlabelled(size: Any, reason: str) -> Axis:
    """A dimension without labels: `reason` says what holds it."""
    if isinstance(size, SymInt):
        return Axis("its size is symbolic")
    return ONE if size == 1 else Axis(reason)


def passed(axes: Sequence[Axis], zero: bool) -> Value:
    """The same dimensions behind an operator that keeps zeros or does not."""
    return tuple(Axis(axis.labels, axis.zero and zero) for axis in axes)
