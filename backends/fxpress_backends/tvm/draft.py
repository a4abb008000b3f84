"""A physical plan under construction: the program's facts that rules ask for, and the groups that they add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.ops import SHAPE_OPERATORS, Interval, arguments, constant
from numpy.typing import NDArray
from torch import fx

from fxpress_backends.contract import Target

from .cpu import VNNI
from .pack import LANES, WORD, rounded_up
from .physical import NO_HALO, Buffer, Group, Lead, Plan

_aten, _fxp = torch.ops.aten, torch.ops.fxp
SHIFTED = "u8+128"


def lead_of(size: Any, names: Mapping[str, str]) -> Lead | None:
    """Dimension 0 as a number or a multiple of one named dimension; None where it is something else."""
    if isinstance(size, int):
        return Lead(size)
    factor, symbol = size.node.expr.as_coeff_Mul()
    return Lead(int(factor), names[str(symbol)]) if factor.is_Integer and str(symbol) in names else None


def permutation_of(node: fx.Node) -> tuple[int, ...] | None:
    """The order of dimensions that a permute or transpose takes; None for operators that keep the order of elements."""
    named, rank = arguments(node), len(node.meta["val"].shape)
    if node.target is _aten.permute.default:
        return tuple(dimension % rank for dimension in named["dims"])
    if node.target is _aten.transpose.int:
        first, second = named["dim0"] % rank, named["dim1"] % rank
        swapped = {first: second, second: first}
        return tuple(swapped.get(d, d) for d in range(rank))
    return None


def is_identity(node: fx.Node) -> bool:
    """A shape operator that changes neither the shape nor the order of elements."""
    if node.target not in SHAPE_OPERATORS:
        return False
    order = permutation_of(node)
    before, after = arguments(node)["self"].meta["val"].shape, node.meta["val"].shape
    return tuple(map(str, before)) == tuple(map(str, after)) and (order is None or order == tuple(range(len(order))))


def readers(node: fx.Node) -> list[fx.Node]:
    """The operators that read a node's value, seen through identities; the output node counts as one."""
    return [reader for user in node.users for reader in (readers(user) if is_identity(user) else [user])]


def epilogue_of(node: fx.Node) -> fx.Node | None:
    """The requantisation per channel that alone reads an accumulator: it runs in the registers of the accumulating kernel."""
    if [user.target for user in node.users] != [_fxp.requantize.default]:
        return None
    user = next(iter(node.users))
    rank = len(node.meta["val"].shape)
    channel = rank - 1 if node.target is _fxp.linear.default else 1
    named = arguments(user)
    return user if named["b"].meta["val"].numel() == 1 or named["axis"] % rank == channel else None


class Draft:
    """Buffers, groups and constants so far; `plan` freezes them."""

    def __init__(self, program: Program, target: Target) -> None:
        self.program = program
        self.dot_products = VNNI in target.features
        self._target = target
        self._names = program.symbols()
        self._intervals = integer_ranges(program.graph, program.tensors).intervals
        self._values: dict[fx.Node, str] = {}
        self._buffers: dict[str, Buffer] = {}
        self._groups: list[Group] = []
        self._constants: dict[str, NDArray[Any]] = {}

    def constant(self, node: fx.Node) -> NDArray[np.int64]:
        return constant(node, self.program.tensors)

    def interval(self, node: fx.Node) -> Interval:
        return self._intervals[node]

    def buffer(self, node: fx.Node) -> Buffer:
        """Where the value of a node lies."""
        return self._buffers[self._values[node]]

    def place(self, node: fx.Node, buffer: Buffer) -> None:
        """Record that the value of a node lies in a buffer."""
        self._buffers.setdefault(buffer.name, buffer)
        self._values[node] = buffer.name

    def plain(self, node: fx.Node) -> Buffer:
        """The buffer as callers see a tensor: row-major, nothing padded, the program's own dtype."""
        lead, shape = self._shape(node)
        return Buffer(f"{node.name}.plain", lead, shape, "rows", shape[-1], NO_HALO, _dtype(node))

    def stored(self, node: fx.Node) -> Buffer:
        """The buffer that suits the readers of a value: NHWC with their padding around it where it is an image."""
        lead, shape = self._shape(node)
        dtype = _dtype(node)
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
    ) -> None:
        """Add a group; its constants are named after its first node."""
        named = {f"{nodes[0].name}.{role}": array for role, array in (constants or {}).items()}
        self._constants.update(named)
        read, covered = tuple(buffer.name for buffer in inputs), tuple(node.name for node in nodes)
        self._groups.append(Group(kernel, read, output.name, tuple(named), attributes or {}, covered, why))
        self.place(nodes[-1], output)

    def in_rows(self, node: fx.Node) -> Buffer:
        """The value row-major: an image as a copy, anything else where it lies."""
        held = self.buffer(node)
        rows = self.rows_like(held)
        if rows == held or rows.name in self._buffers:
            return rows
        self.emit("rearrange", [held], rows, [node], {"permutation": None})
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


def _dtype(node: fx.Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")
