"""A run of another tensor's channels, such as a slice of joined layers' results ==> read where it lies; nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from .draft import Draft
from .gather import run_of
from .pack import LANES
from .physical import Buffer


@dataclass(frozen=True)
class Columns:
    """What a kernel reads: a buffer, and the run (first channel, how many) of it that a value is; None where it is the whole one."""

    held: Buffer
    run: tuple[int, int] | None = None
    nodes: tuple[fx.Node, ...] = ()

    @property
    def buffer(self) -> Buffer:
        """As the kernel sees it."""
        return self.held if self.run is None else self.held.with_channels(self.run[1], LANES)


def columns(draft: Draft, node: fx.Node) -> Columns:
    """Where a value lies; it is copied where that is not a run of one buffer's channels that begins with a vector."""
    gather = draft.waiting(node)
    first = None if gather is None else run_of(gather, draft.stored(node))
    if gather is None or first is None or first % LANES or gather.parts[0].source.layout != draft.stored(node).layout:
        return Columns(draft.buffer(node))
    return Columns(gather.parts[0].source, (first, len(gather.channels)), gather.nodes)


def covered(draft: Draft, operands: Sequence[Columns], node: fx.Node) -> list[fx.Node]:
    """The node, after the moves that its operands spare and no other group computes."""
    return draft.uncovered([step for operand in operands for step in operand.nodes], node)


def spans(operands: Sequence[Columns]) -> dict[str, Any]:
    """The setting that tells a kernel of the runs; none where all operands are whole."""
    found = [None if operand.run is None else list(operand.run) for operand in operands]
    return {"spans": found} if any(found) else {}
