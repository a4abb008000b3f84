"""[batch, length, heads * width] in place of [batch, heads, length, width]: heads that a view and a transpose split off, or join.

Where heads are whole vectors wide, a kernel that works head by head reads and writes the tensor as the linear layers before and
after it have it; nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fxpress_ir.ops import SHAPE_OPERATORS
from torch import fx

from .draft import Draft
from .gather import run_of
from .nodes import permutation_of, readers, sizes_of
from .pack import LANES
from .physical import Buffer

_SWAPPED = (0, 2, 1, 3)


@dataclass(frozen=True)
class Split:
    """Heads in rows of a buffer: how many, and the channel where the first begins; 0 heads where the buffer has a dimension of them."""

    held: Buffer
    heads: int = 0
    first: int = 0
    width: int = 0
    nodes: tuple[fx.Node, ...] = ()

    @property
    def buffer(self) -> Buffer:
        """As a kernel sees it: [batch, heads, length, width], or what is held."""
        if not self.heads:
            return self.held
        length = self.held.shape[0]
        return replace(self.held, shape=(self.heads, length, self.width), innermost=self.width)

    @property
    def setting(self) -> list[int]:
        return [self.heads, self.first, self.width]


def split(draft: Draft, node: fx.Node) -> Split:
    """Where the rows of a value's heads lie; they are copied where that is not one tensor of whole vectors."""
    chain = draft.pending_chain(node)
    found = None if chain is None else _within(draft, *chain)
    return Split(draft.in_rows(node)) if found is None else found


def _within(draft: Draft, base: fx.Node, steps: tuple[fx.Node, ...]) -> Split | None:
    if len(steps) != 2 or not _splits(base, *steps):
        return None
    moved, width = draft.moved(base), steps[1].meta["val"].shape[-1]
    first = run_of(moved, draft.stored(base))
    if first is None or width % LANES or first % LANES:
        return None
    return Split(moved.parts[0].source, steps[1].meta["val"].shape[1], first, width, (*moved.nodes, *steps))


def _splits(wide: fx.Node, view: fx.Node, swap: fx.Node) -> bool:
    """[b, l, h * w] is seen as [b, l, h, w] and turned to [b, h, l, w]."""
    if len(sizes_of(wide)) != 3 or len(sizes_of(view)) != 4 or permutation_of(swap) != _SWAPPED:
        return False
    return permutation_of(view) is None and sizes_of(wide)[:2] == sizes_of(view)[:2]


def joined(draft: Draft, node: fx.Node) -> tuple[Split, tuple[fx.Node, ...]]:
    """Where a kernel writes the heads of a value, and the nodes that are then computed: those of a transpose and a view that join them."""
    width = node.meta["val"].shape[-1]
    swap = _only_reader(node)
    last = None if swap is None else _only_reader(swap)
    if swap is None or last is None or width % LANES or not _joins(swap, last):
        return Split(draft.rows_like(draft.stored(node))), (node,)
    return Split(draft.stored(last), node.meta["val"].shape[1], 0, width), (node, swap, last)


def _joins(swap: fx.Node, last: fx.Node) -> bool:
    """[b, h, l, w] is turned to [b, l, h, w] and seen as [b, l, h * w]."""
    if len(sizes_of(last)) != 3 or len(sizes_of(swap)) != 4 or permutation_of(swap) != _SWAPPED:
        return False
    return last.target in SHAPE_OPERATORS and permutation_of(last) is None and sizes_of(last)[:2] == sizes_of(swap)[:2]


def _only_reader(node: fx.Node) -> fx.Node | None:
    found = readers(node)
    return found[0] if len(found) == 1 and found[0].op == "call_function" else None
