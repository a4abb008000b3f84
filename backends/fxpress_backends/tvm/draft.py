"""A physical plan under construction: the program's facts that rules ask for, and the groups that they add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.ops import Interval, arguments, constant
from numpy.typing import NDArray
from torch import fx

from fxpress_backends.contract import Target

from .cpu import VBMI, VNNI
from .gather import Gather, separated, taken, whole
from .nodes import dtype_of, lead_of, loop_of, origin, permutation_of, readers
from .pack import LANES, WORD, rounded_up
from .physical import NO_HALO, Buffer, Group, Lead, Plan

_fxp = torch.ops.fxp
SHIFTED = "u8+128"


class Draft:
    """Buffers, groups and constants so far; `plan` freezes them."""

    def __init__(self, program: Program, target: Target) -> None:
        self.program = program
        self.dot_products = VNNI in target.features
        self.byte_permutes = VBMI in target.features
        self._target = target
        self._names = program.symbols()
        self._intervals = integer_ranges(program.graph, program.tensors).intervals
        self._values: dict[fx.Node, str] = {}
        self._moves: dict[fx.Node, Gather] = {}
        self._chains: dict[fx.Node, tuple[fx.Node, tuple[fx.Node, ...]]] = {}
        self._covered: set[fx.Node] = set()
        self._buffers: dict[str, Buffer] = {}
        self._groups: list[Group] = []
        self._constants: dict[str, NDArray[Any]] = {}

    def constant(self, node: fx.Node) -> NDArray[np.int64]:
        return constant(node, self.program.tensors)

    def interval(self, node: fx.Node) -> Interval:
        return self._intervals[node]

    def buffer(self, node: fx.Node) -> Buffer:
        """Where the value of a node lies; one that was only moved so far is copied there now."""
        node = origin(node)
        if node not in self._values:
            self._settle(node)
        return self._buffers[self._values[node]]

    def moved(self, node: fx.Node) -> Gather:
        """The value of a node as elements of buffers."""
        node = origin(node)
        gather = None if node in self._values else self._gathered(node)
        return whole(self.buffer(node)) if gather is None else gather

    def move(self, node: fx.Node, gather: Gather) -> None:
        """Record how the value of a node was moved; it is copied when a kernel reads it."""
        self._moves[node] = replace(gather, nodes=(*gather.nodes, node))

    def chain(self, node: fx.Node) -> None:
        """Record a view or permutation; with those before it that nothing else has asked for it makes one copy."""
        source = origin(arguments(node)["self"])
        open_chain = source in self._chains and source not in self._values and source not in self._moves
        base, steps = self._chains[source] if open_chain else (source, ())
        self._chains[node] = (base, (*steps, node))

    def _gathered(self, node: fx.Node) -> Gather | None:
        """None for a chain that mixes dimensions."""
        if node not in self._moves:
            base, steps = self._chains[node]
            tables = separated(base, steps)
            if tables is None:
                return None
            gather = self.moved(base)
            for dimension, table in enumerate(tables, 1):
                gather = taken(gather, loop_of(1 + len(tables), dimension), table)
            self._moves[node] = replace(gather, nodes=(*gather.nodes, *steps))
        return self._moves[node]

    def _settle(self, node: fx.Node) -> None:
        """Copy a moved value to where its readers want it; nothing where memory stays as it is."""
        result, gather = self.stored(node), self._gathered(node)
        if gather is not None:
            sources = [part.source for part in gather.parts]
            self.emit("gather", sources, result, self._uncovered(gather.nodes, node), *gather.description(), owner=node)
            return
        base, steps = self._chains[node]
        source, orders, nodes = self.buffer(base), [permutation_of(step) for step in steps], self._uncovered(steps, node)
        same_memory = (source.lead, source.middle, source.channels) == (result.lead, result.middle, result.channels)
        if not any(orders) and same_memory and source.row_major and result.row_major:
            self.emit("view", [source], result, nodes)
        else:
            before = [_static_sizes(arguments(step)["self"]) for step in steps]
            moves = [["shape", *sizes] if order is None else ["order", *order] for sizes, order in zip(before, orders, strict=True)]
            self.emit("rearrange", [source], result, nodes, {"steps": moves})

    def _uncovered(self, steps: Sequence[fx.Node], last: fx.Node) -> list[fx.Node]:
        """The steps that no group computes yet, each once, then the last one."""
        return [*(step for step in dict.fromkeys(steps) if step not in self._covered and step is not last), last]

    def place(self, node: fx.Node, buffer: Buffer) -> None:
        """Record that the value of a node lies in a buffer."""
        self._buffers.setdefault(buffer.name, buffer)
        self._values[node] = buffer.name

    def plain(self, node: fx.Node) -> Buffer:
        """The buffer as callers see a tensor: row-major, nothing padded, the program's own dtype."""
        lead, shape = self._shape(node)
        return Buffer(f"{node.name}.plain", lead, shape, "rows", shape[-1], NO_HALO, dtype_of(node))

    def stored(self, node: fx.Node) -> Buffer:
        """The buffer that suits the readers of a value: NHWC with their padding around it where it is an image."""
        lead, shape = self._shape(node)
        dtype = dtype_of(node)
        shifted = dtype == "int8" and self._target.storage == SHIFTED
        kept = ("uint8", 128) if shifted else (dtype, 0)
        if len(shape) != 3:
            return Buffer(node.name, lead, shape, "rows", rounded_up(shape[-1], LANES), NO_HALO, *kept)
        convolutions = [reader for reader in readers(node) if reader.target is _fxp.conv2d.default]
        halo = tuple(np.max([arguments(reader)["padding"] for reader in convolutions], axis=0).tolist()) if convolutions else NO_HALO
        return Buffer(node.name, lead, shape, "NHWC", rounded_up(shape[0], self._channel_multiple(node)), halo, *kept)

    def _channel_multiple(self, node: fx.Node) -> int:
        """Kernels write whole vectors; an image that enters for dense convolutions alone keeps to whole words."""
        enters = node.op == "placeholder" or node.target is _fxp.quantize.default
        dense = all(r.target is _fxp.conv2d.default and arguments(r)["groups"] == 1 for r in readers(node))
        return WORD if enters and dense and node.meta["val"].shape[1] < LANES else LANES

    def _shape(self, node: fx.Node) -> tuple[Lead, tuple[int, ...]]:
        size, *rest = node.meta["val"].shape
        lead = lead_of(size, self._names)
        assert lead is not None, "legalize refuses other sizes"
        return lead, tuple(rest)

    def emit(
        self,
        kernel: str,
        inputs: Sequence[Buffer],
        output: Buffer,
        nodes: Sequence[fx.Node],
        attributes: Mapping[str, Any] | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
        why: str = "",
        owner: fx.Node | None = None,
    ) -> None:
        """Add a group; its constants are named after its owner, the first node where none is given."""
        named = {f"{(owner or nodes[0]).name}.{role}": array for role, array in (constants or {}).items()}
        self._constants.update(named)
        read, covered = tuple(buffer.name for buffer in inputs), tuple(node.name for node in nodes)
        self._groups.append(Group(kernel, read, output.name, tuple(named), attributes or {}, covered, why))
        self._covered.update(nodes)
        self.place(nodes[-1], output)

    def in_rows(self, node: fx.Node) -> Buffer:
        """The value row-major: an image as a copy, anything else where it lies."""
        held = self.buffer(node)
        rows = self.rows_like(held)
        if rows == held or rows.name in self._buffers:
            return rows
        self.emit("rearrange", [held], rows, [node], {"steps": []})
        self.place(node, held)
        return rows

    def rows_like(self, buffer: Buffer) -> Buffer:
        """The same tensor row-major; a buffer of rows itself."""
        if buffer.layout == "rows":
            return buffer
        return replace(buffer, name=f"{buffer.name}.rows", layout="rows", channels=rounded_up(buffer.shape[-1], LANES), halo=NO_HALO)

    def plan(self, outputs: Sequence[str]) -> Plan:
        inputs = tuple(f"{node.name}.plain" for node in self.program.placeholders())
        return Plan(self._target.name, inputs, self._buffers, tuple(self._groups), tuple(outputs), self._constants)


def _static_sizes(node: fx.Node) -> list[int]:
    """The shape, 0 for a dynamic first dimension: no step moves it."""
    return [size if isinstance(size, int) else 0 for size in node.meta["val"].shape]
