"""program ==> its residual blocks: x + f(x), as many in a row as repeat along the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..program import Program

_aten = torch.ops.aten
_LAYERS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})
_IDEMPOTENT = {_aten.relu.default, _aten.hardtanh.default, _aten.dropout.default, _aten.clone.default, _aten.contiguous.default}
_AFTER = _IDEMPOTENT | {_aten.gelu.default, _aten.silu.default, _aten.layer_norm.default, _aten.rms_norm.default, _aten.batch_norm.default}
"""What may stand between a sum and the next block: of one value, which keeps its shape."""


@dataclass(frozen=True, eq=False)
class Block:
    """From `input` to `output`, two nodes of one shape and dtype; nothing between them is read from elsewhere.

    Attributes:
        nodes: what computes on the way, in order, `output` included.
    """

    input: fx.Node
    output: fx.Node
    nodes: tuple[fx.Node, ...]

    @property
    def names(self) -> tuple[str, str]:
        return self.input.name, self.output.name

    @property
    def layers(self) -> tuple[fx.Node, ...]:
        """Its linear layers and convolutions, in order."""
        return tuple(node for node in self.nodes if _is_layer(node))

    @property
    def constants(self) -> tuple[fx.Node, ...]:
        """The tensors that it reads, in order, one as often as it is read."""
        return tuple(used for node in self.nodes for used in node.all_input_nodes if used.op == "get_attr")

    def is_like(self, other: Block, program: Program) -> bool:
        """The same operators on tensors of the same shapes, in the same order."""
        mine, others = ([program.tensors[str(node.target)].shape for node in block.constants] for block in (self, other))
        return mine == others and [node.target for node in self.nodes] == [node.target for node in other.nodes]

    def __str__(self) -> str:
        return " ==> ".join(self.names)


@dataclass(frozen=True, eq=False)
class _Unit:
    """One x + f(x): what it reads, what it is made of, the sum, and what alone reads the sum."""

    input: fx.Node
    signature: tuple[Any, ...]
    tail: tuple[fx.Node, ...]

    @property
    def sum(self) -> fx.Node:
        return self.tail[0]


def residual_blocks(program: Program) -> list[Block]:
    """In the order in which they run; a block that is inside another's branch is left out."""
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    units: dict[fx.Node, _Unit] = {}
    inner: set[fx.Node] = set()
    for node in program.graph.nodes:
        unit = _unit(node, program, order)
        if unit is not None:
            units.setdefault(unit.input, unit)
            inner.update(_between(unit.input, node, order)[1:-1])
    free = {start: unit for start, unit in units.items() if unit.sum not in inner}
    ends = [pair for chain in _chains(free) for pair in _repeating(chain)]
    blocks = [Block(start, end, tuple(_between(start, end, order)[1:])) for start, end in ends]
    return sorted(blocks, key=lambda block: order[block.output])


def rows(program: Program) -> list[list[Block]]:
    """Blocks of one structure, each of which reads what the one before gives, in the order in which they run; single ones, too."""
    found: list[list[Block]] = []
    for block in residual_blocks(program):
        before = next((row for row in found if row[-1].output is block.input and row[-1].is_like(block, program)), None)
        if before is None:
            found.append([block])
        else:
            before.append(block)
    return found


def _unit(node: fx.Node, program: Program, order: dict[fx.Node, int]) -> _Unit | None:
    if not _is_sum(node):
        return None
    for x in _summands(node):
        region = _between(x, node, order) if x.op != "get_attr" and _alike(x, node) else []
        if any(map(_is_layer, region[1:])) and _closed(region):
            constants = (used for one in region[1:] for used in one.all_input_nodes if used.op == "get_attr")
            shapes = tuple(tuple(program.tensors[str(used.target)].shape) for used in constants)
            return _Unit(x, (tuple(str(one.target) for one in region[1:]), shapes), _tail(node))
    return None


def _is_layer(node: fx.Node) -> bool:
    return getattr(node.target, "_opname", "") in _LAYERS


def _is_sum(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is _aten.add.Tensor and "alpha" not in node.kwargs


def _summands(node: fx.Node) -> Iterator[fx.Node]:
    """What is added up, the nearest first: x + a + b has x too."""
    waiting = [node]
    while waiting:
        operands = [used for used in waiting.pop(0).args[:2] if isinstance(used, fx.Node)]
        yield from operands
        waiting += [used for used in operands if _is_sum(used)]


def _tail(node: fx.Node) -> tuple[fx.Node, ...]:
    tail = [node]
    while len(tail[-1].users) == 1:
        (user,) = tail[-1].users
        if user.target not in _AFTER or user.all_input_nodes[0] is not tail[-1] or not _alike(node, user):
            break
        tail.append(user)
    return tuple(tail)


def _alike(one: fx.Node, other: fx.Node) -> bool:
    a, b = one.meta.get("val"), other.meta.get("val")
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and [str(s) for s in a.shape] == [str(s) for s in b.shape]


def _between(start: fx.Node, end: fx.Node, order: dict[fx.Node, int]) -> list[fx.Node]:
    """Nodes on the ways from `start` to `end`, both included, in order; none where there is no way."""
    behind, waiting = {start}, [start]
    while waiting:
        for user in waiting.pop().users:
            if user not in behind and order[user] <= order[end]:
                behind.add(user)
                waiting.append(user)
    before, waiting = {end}, [end]
    while waiting:
        for used in waiting.pop().all_input_nodes:
            if used in behind and used not in before:
                before.add(used)
                waiting.append(used)
    return sorted(before, key=order.__getitem__) if start in before else []


def _closed(region: list[fx.Node]) -> bool:
    """Nothing between the ends is read from outside."""
    inside = set(region)
    return all(user in inside for node in region[1:-1] for user in node.users)


def _chains(units: dict[fx.Node, _Unit]) -> Iterator[list[tuple[_Unit, fx.Node]]]:
    """Units in a row, each with its output: what the next one reads, or its likes in the row end with."""
    continued = {unit.input for other in units.values() for node in other.tail if (unit := units.get(node)) is not None}
    for start in units:
        if start in continued:
            continue
        unit, chain = units[start], list[tuple[_Unit, fx.Node]]()
        while (output := next((node for node in unit.tail if node in units), None)) is not None:
            chain.append((unit, output))
            unit = units[output]
        yield [*chain, (unit, _last(unit, chain))]


def _last(unit: _Unit, chain: list[tuple[_Unit, fx.Node]]) -> fx.Node:
    """Where a row's last unit ends: a norm behind it belongs to it only where one belongs to the unit before."""
    before, output = chain[-1] if chain else (None, None)
    after = [] if before is None else [node.target for node in before.tail[1 : before.tail.index(output) + 1]]
    place = 0
    for node in unit.tail[1:]:
        if after[place : place + 1] != [node.target] and not (before is None and node.target in _IDEMPOTENT):
            break
        place += 1
    return unit.tail[place]


def _repeating(chain: list[tuple[_Unit, fx.Node]]) -> list[tuple[fx.Node, fx.Node]]:
    """The ends of a row's blocks: cut by the shortest period of its signatures, or unit by unit where they do not repeat."""
    signatures = [unit.signature for unit, _ in chain]
    periods = (length for length in range(1, len(chain) // 2 + 1) if len(chain) % length == 0)
    period = next((length for length in periods if signatures[length:] == signatures[:-length]), 1)
    return [(chain[place][0].input, chain[place + period - 1][1]) for place in range(0, len(chain), period)]
