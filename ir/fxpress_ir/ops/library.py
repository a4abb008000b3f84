"""The one owner of the ``fxp`` operator namespace, and the row that each operator fills in.

A low-level ``torch.library.Library`` is used instead of ``custom_op``, whose wrapper costs 11 us a call; an operator here
costs 4 us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

LIBRARY: Any = torch.library.Library("fxp", "DEF")  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Interval:
    """The integers that a value can take: int64 bounds of shape () for the tensor or (channels,) along `axis`."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    axis: int | None = None

    @classmethod
    def of(cls, low: int, high: int) -> Interval:
        return cls(np.asarray(low, np.int64), np.asarray(high, np.int64))

    @property
    def magnitude(self) -> NDArray[np.int64]:
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def hull(self) -> Interval:
        """The tensor-wide interval that contains all channels."""
        return Interval.of(int(self.low.min()), int(self.high.max()))


@dataclass(frozen=True)
class Fact:
    """One proved or refuted statement: every `what` of `node` lies in [low, high] and has to fit [least, most]."""

    node: str
    what: str
    low: int
    high: int
    least: int
    most: int

    @property
    def holds(self) -> bool:
        return self.least <= self.low and self.high <= self.most

    @classmethod
    def fits(cls, node: str, what: str, low: NDArray[np.int64], high: NDArray[np.int64], width: int) -> Fact:
        """The values fit a signed integer of `width` bits."""
        return cls(node, what, int(low.min()), int(high.max()), -(1 << (width - 1)), (1 << (width - 1)) - 1)


@dataclass(frozen=True)
class Proof:
    """What interval arithmetic says of one node: the interval of its result and the facts that its arithmetic needs."""

    interval: Interval
    facts: tuple[Fact, ...] = ()


Intervals = Mapping[fx.Node, Interval]
Tensors = Mapping[str, Tensor]
Prove = Callable[[fx.Node, Intervals, Tensors], Proof]


@dataclass(frozen=True)
class Operator:
    """A row of the operator table: everything that the verifier and the backends have to know about an operator."""

    name: str
    overload: Any
    prove: Prove | None
    """The proof rule; None for operators that only a float or simulated program holds."""


def define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any], prove: Prove | None = None) -> Operator:
    """Register ``fxp::<schema>`` with its reference kernel (any device) and its fake kernel."""
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fxp::{name}", fake, lib=LIBRARY)
    return Operator(name, getattr(torch.ops.fxp, name).default, prove)


def check(holds: bool, what: Callable[[], str]) -> None:
    """A fake kernel's check: what the kernel could not run must not propagate."""
    torch._check(holds, what)  # type: ignore[no-untyped-call]


def windows(size: int, kernel: int, stride: int, pads: int, dilation: int = 1) -> int:
    """How many windows fit along one dimension of `size` elements with `pads` more on both ends together."""
    count = (size + pads - dilation * (kernel - 1) - 1) // stride + 1
    check(not isinstance(count, int) or count > 0, lambda: f"a window of {kernel} does not fit into {size} elements and {pads} pads")
    return count


def check_channels(what: str, values: Tensor, count: int) -> None:
    """A fake kernel's check that `values` are one a channel, or one for all."""
    check(values.dim() == 1, lambda: f"{what} has shape {list(values.shape)}, expected one dimension")
    check(values.shape[0] in (1, count), lambda: f"{what} has {values.shape[0]} values for {count} channels")


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator call by name, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    named = {argument.name: argument.default_value for argument in schema.arguments}
    named.update(zip(named, node.args, strict=False))
    named.update(node.kwargs)
    return named


def constant(node: fx.Node, tensors: Tensors) -> NDArray[np.int64]:
    """The int64 values of the tensor that a ``get_attr`` node names."""
    return tensors[str(node.target)].numpy().astype(np.int64)
