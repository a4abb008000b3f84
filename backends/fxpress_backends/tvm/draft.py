"""A physical plan under construction: the program's facts that rules ask for, and the groups that they add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.ops import LOOKUP_OPERATORS, Interval, arguments
from numpy.typing import NDArray
from torch import fx

from fxpress_backends.contract import Target
from fxpress_backends.reexport import is_size

from .cpu import AMX, AVX2, AVX512, EMULATED_AMX, VBMI, VNNI
from .cross import AARCH64, DOTPROD, I8MM
from .cuda import CUDA, EMULATED, has_tensor_cores
from .gather import Gather, separated, taken, whole
from .islands import Island
from .layout import Layout
from .nodes import origin, plain_name, readers
from .pack import stored_array
from .physical import FUNCTION, RESULT, Buffer, Group, Plan
from .steps import in_place, steps_of

_fxp = torch.ops.fxp
_LOOKUPS = {VBMI: "vpermi2b", AVX512: "pshufb-512", AVX2: "pshufb-256", AARCH64: "tbl"}
"""The best of what a target has to look bytes up in registers (`kernels.lookup`), by its feature."""


class Draft(Layout):
    """Buffers, groups and constants so far; `plan` freezes them."""

    def __init__(self, program: Program, target: Target, *, fuses_additions: bool = True, nibbles: bool | None = None) -> None:
        super().__init__(program, target)
        self.fuses_additions = fuses_additions
        self.nibbles = nibbles
        self.dot_products = VNNI in target.features
        self.products_of_pairs = AVX2 in target.features and not self.dot_products
        self.signed_dot_products = DOTPROD in target.features
        self.widening_products = AARCH64 in target.features and not self.signed_dot_products
        self.matrix_products = I8MM in target.features
        self.words_of_threads = CUDA in target.features or EMULATED in target.features
        self.tensor_cores = has_tensor_cores(target)
        self.emulated_threads = EMULATED in target.features
        self.lookup = next((name for feature, name in _LOOKUPS.items() if feature in target.features), "")
        self.emulated_tiles = EMULATED_AMX in target.features
        self.tiles = AMX in target.features or self.emulated_tiles
        self.intervals = integer_ranges(program.graph, program.tensors).intervals
        self._values: dict[fx.Node, str] = {}
        self._rows: dict[fx.Node, str] = {}
        self._moves: dict[fx.Node, Gather] = {}
        self._chains: dict[fx.Node, tuple[fx.Node, tuple[fx.Node, ...]]] = {}
        self._covered: set[fx.Node] = set()
        self._buffers: dict[str, Buffer] = {}
        self._groups: list[Group] = []
        self._constants: dict[str, NDArray[Any]] = {}

    def interval(self, node: fx.Node) -> Interval:
        return self.intervals[node]

    def buffer(self, node: fx.Node) -> Buffer:
        """Where the value of a node lies; one that was only moved so far, or that lies in rows alone, is copied there now."""
        node = origin(node)
        known = None if node in self._values else self.known(node)
        if known is not None:
            self._store(known, node, self.stored(node))
        elif node in self._rows and node not in self._values:
            self.emit("rearrange", [self._buffers[self._rows[node]]], self.stored(node), [node], {"steps": []})
        elif node not in self._values:
            self._settle(node, self.stored(node))
        return self._buffers[self._values[node]]

    def moved(self, node: fx.Node) -> Gather:
        """The value of a node as elements of buffers."""
        node = origin(node)
        waits = node not in self._values and (node in self._moves or node in self._chains)
        gather = self._gathered(node) if waits else None
        return whole(self.buffer(node)) if gather is None else gather

    def move(self, node: fx.Node, gather: Gather) -> None:
        """Record how the value of a node was moved; it is copied when a kernel reads it."""
        self._moves[node] = replace(gather, nodes=(*gather.nodes, node))

    def chain(self, node: fx.Node) -> None:
        """Record a shape operator; with those before it that nothing else has asked for it makes one copy."""
        source = origin(arguments(node)["self"])
        open_chain = source in self._chains and source not in self._values and source not in self._moves
        base, steps = self._chains[source] if open_chain else (source, ())
        self._chains[node] = (base, (*steps, node))

    def pending_chain(self, node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]] | None:
        """What views and permutations make of which value, where that has no place in memory yet."""
        node = origin(node)
        placed = node in self._values or node in self._rows or node in self._moves
        return None if placed else self._chains.get(node)

    def waiting(self, node: fx.Node) -> Gather | None:
        """The value as elements of buffers where it has no place in memory yet; None where it has one, or is no such value."""
        node = origin(node)
        placed = node in self._values or node in self._rows
        return None if placed or not (node in self._moves or node in self._chains) else self._gathered(node)

    def _gathered(self, node: fx.Node) -> Gather | None:
        """None for a chain that mixes dimensions."""
        if node not in self._moves:
            base, steps = self._chains[node]
            tables = separated(base, steps) if self.is_image(base) == self.is_image(node) else None
            if tables is None:
                return None
            gather = self.moved(base)
            for dimension, table in enumerate(tables, 1):
                gather = taken(gather, self.loop_of(node, dimension), table)
            self._moves[node] = replace(gather, nodes=(*gather.nodes, *steps))
        return self._moves[node]

    def _settle(self, node: fx.Node, result: Buffer) -> None:
        """Copy a moved value to where its readers want it; nothing where memory stays as it is."""
        gather = self._gathered(node)
        if gather is not None:
            sources = [part.source for part in gather.parts]
            self.emit("gather", sources, result, self.uncovered(gather.nodes, node), *gather.description(), owner=node)
            return
        base, nodes = self._chains[node]
        source, steps = self.anywhere(base), [step for moving in nodes for step in steps_of(moving, self._names)]
        covered = self.uncovered(nodes, node)
        if in_place(steps, source, result):
            self.emit("view", [source], result, covered)
        else:
            self.emit("rearrange", [source], result, covered, {"steps": steps})

    def uncovered(self, steps: Sequence[fx.Node], last: fx.Node) -> list[fx.Node]:
        """The steps that no group computes yet, each once, then the last one."""
        return [*(step for step in dict.fromkeys(steps) if step not in self._covered and step is not last), last]

    def plainly(self, node: fx.Node) -> str:
        """The name of the value as callers and islands see it; it is copied there where it lies otherwise."""
        if node.name in self.program.islands:
            return plain_name(node)
        plain, held = self.plain(node), self.anywhere(node)
        if plain.name not in self._buffers:
            self._buffers[plain.name] = plain
            self._groups.append(Group("convert", (held.name,), plain.name, (), {}, (node.name,)))
        return plain.name

    def enter(self, node: fx.Node) -> None:
        """A plain value from elsewhere: floats wait for their quantisation, numbers of rows are read as they are, other integers stored."""
        given, value = self.plain(node), origin(node)
        if value is node:
            self.place(node, given)
        elif value not in self._values:
            self.emit("view", [given], self.plain(value), [value])
        if not node.meta["val"].is_floating_point() and any(
            reader.target not in LOOKUP_OPERATORS for reader in self._integer_readers(node)
        ):
            self.emit("convert", [given], self.stored(value), [value])

    def call(self, island: Island) -> None:
        """Add an island's function, which reads and gives plain values."""
        read, covered = tuple(map(self.plainly, island.part.inputs)), tuple(node.name for node in island.nodes)
        self._groups.append(Group(FUNCTION, read, island.name, (), {}, covered))
        for index, node in enumerate(island.part.outputs):
            self._groups.append(Group(RESULT, (island.name,), plain_name(node), (), {"index": index}, ()))
        for node in island.part.outputs:
            if self._integer_readers(node):
                self.enter(node)

    def _integer_readers(self, node: fx.Node) -> list[fx.Node]:
        """The readers that kernels compute: no islands, no sizes."""
        calls = [reader for reader in readers(node) if reader.op == "call_function" and not is_size(reader)]
        return [reader for reader in calls if reader.name not in self.program.islands]

    def anywhere(self, node: fx.Node) -> Buffer:
        """The value in whatever order it lies already."""
        found = self._rows.get(origin(node))
        return self.buffer(node) if found is None else self._buffers[found]

    def _store(self, known: torch.Tensor, node: fx.Node, buffer: Buffer) -> None:
        """A value that is known as kernels read values: its array bears the buffer's name."""
        self._constants[buffer.name] = stored_array(known.numpy(), buffer)
        self.place(node, buffer)

    def place(self, node: fx.Node, buffer: Buffer) -> None:
        """Record that the value of a node lies in a buffer; an image may lie in rows, beside or instead of as one."""
        self._buffers.setdefault(buffer.name, buffer)
        image_in_rows = self.is_image(node) and buffer.layout == "rows" and buffer.name != plain_name(node)
        (self._rows if image_in_rows else self._values)[node] = buffer.name

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
        """The value row-major: an image as a copy, or moved there at once; anything else where it lies."""
        node = origin(node)
        if not self.is_image(node):
            return self.buffer(node)
        if node not in self._rows:
            rows, known = self.rows_like(self.stored(node)), self.known(node)
            if known is not None:
                self._store(known, node, rows)
            elif node in self._chains and node not in self._values and self._gathered(node) is None:
                self._settle(node, rows)
            else:
                self.emit("rearrange", [self.buffer(node)], rows, [node], {"steps": []})
        return self._buffers[self._rows[node]]

    def plan(self, outputs: Sequence[str]) -> Plan:
        inputs = tuple(map(plain_name, self.program.placeholders()))
        return Plan(self._target.name, inputs, self._buffers, tuple(self._groups), tuple(outputs), self._constants)
