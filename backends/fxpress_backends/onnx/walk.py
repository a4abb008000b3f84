"""The state of one lowering: the ONNX graph that grows, and what each value of the program has become in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir import Program
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.ops import Interval
from numpy.typing import NDArray
from torch import fx

DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.int16: ir.DataType.INT16,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
    torch.bool: ir.DataType.BOOL,
}
"""The element types that may cross the border of an integer program."""

ISLAND_DTYPES = {
    **DTYPES,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
}
"""Those that inputs of float islands, and outputs that islands compute, may have."""

STORAGE = {
    torch.int8: (ir.DataType.UINT8, 128),
    torch.uint8: (ir.DataType.UINT8, 0),
    torch.int16: (ir.DataType.INT32, 0),
    torch.int32: (ir.DataType.INT32, 0),
    torch.int64: (ir.DataType.INT64, 0),
    torch.bool: (ir.DataType.BOOL, 0),
}
"""How a value is held inside the graph: the element type and its zero point. s8 is u8 with 128 added (fast kernels on x86);
s16 is int32, because ONNX Runtime lacks half of the operators for int16."""

ORIGIN = "fxpress.origin"
"""Where a node of the growing graph remembers, in memory alone, the name of the program's node that it is for."""


def zero_point(node: fx.Node) -> int:
    """What the graph adds to the node's value when it holds it."""
    return STORAGE[node.meta["val"].dtype][1]


class Walk:
    """One lowering. Emitters append nodes with `op`, read weights with `array` and operands with `value`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.values: dict[fx.Node, ir.Value] = {}
        self.sizes: dict[str, ir.Value] = {}
        self.intervals: Mapping[fx.Node, Interval] = integer_ranges(program.graph, program.tensors).intervals
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._names = {spec.name for spec in program.inputs}
        self._scope = "graph"

    def enter(self, node: fx.Node) -> None:
        """Name what follows after the program's node."""
        self._scope = node.name

    def unique(self, name: str) -> str:
        """`name`, or the first of name_2, name_3 ... that is free."""
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique

    def constant(self, array: Any, name: str = "") -> ir.Value:
        """An initialiser; equal arrays are stored once."""
        array = np.asarray(array, order="C")
        key = (array.dtype.name, array.shape, hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest())
        if key not in self._constants:
            self._constants[key] = self.own_constant(array, name or f"{self._scope}/constant")
        return self._constants[key]

    def own_constant(self, array: Any, name: str) -> ir.Value:
        """An initialiser that nothing else shares."""
        unique = self.unique(name)
        value = ir.val(unique, const_value=ir.Tensor(np.asarray(array), name=unique))
        self.initializers.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, facts: Mapping[str, object] | None = None, **attributes: Any) -> ir.Value:
        """Append a standard ONNX node with one output; `facts` become its metadata."""
        name = self.unique(f"{self._scope}/{op_type}")
        output = ir.val(name)
        metadata = {f"fxpress.{key}": str(value) for key, value in (facts or {}).items()}
        node = ir.node(op_type, inputs, attributes, outputs=[output], name=name, metadata_props=metadata)
        node.meta[ORIGIN] = self._scope
        self.nodes.append(node)
        return output

    def array(self, node: fx.Node) -> NDArray[Any]:
        """The constant that a ``get_attr`` node names."""
        return self.program.tensors[str(node.target)].detach().cpu().numpy()

    def value(self, node: fx.Node) -> ir.Value:
        """What `node` has become, in its storage type; a tensor of the program becomes an initialiser here."""
        if node.op == "get_attr" and node not in self.values:
            kind, zero = STORAGE[node.meta["val"].dtype]
            held = (self.array(node).astype(np.int64) + zero).astype(kind.numpy())
            self.values[node] = self.constant(held, str(node.target))
        return self.values[node]

    def point(self, node: fx.Node) -> ir.Value:
        """The zero point of an 8-bit node as an operand."""
        return self.constant(np.uint8(zero_point(node)))

    def number(self, node: fx.Node, value: int) -> ir.Value:
        """An integer as `node`'s storage holds it."""
        kind, zero = STORAGE[node.meta["val"].dtype]
        return self.constant(kind.numpy().type(value + zero))

    def shape(self, node: fx.Node) -> Sequence[Any]:
        """The node's sizes: ints and SymInts."""
        sizes: Sequence[Any] = node.meta["val"].shape
        return sizes


def widened(walk: Walk, node: fx.Node) -> ir.Value:
    """The stored value as int32, zero point included."""
    value, kind = walk.value(node), STORAGE[node.meta["val"].dtype][0]
    return value if kind == ir.DataType.INT32 else walk.op("Cast", value, to=ir.DataType.INT32)


def centred(walk: Walk, node: fx.Node) -> ir.Value:
    """The value itself as int32."""
    value, zero = widened(walk, node), zero_point(node)
    return walk.op("Sub", value, walk.constant(np.int32(zero))) if zero else value


Emit = Callable[[Walk, fx.Node], ir.Value]


@dataclass(frozen=True)
class Flavour:
    """A dialect of integer ONNX: one emitter for each operator overload.

    Attributes:
        name: as the file's documentation and metadata say it, ``F1``.
        summary: one line.
        emitters: operator overload -> emitter.
        absorbs: the node has no value of its own because its only user computes it.
    """

    name: str
    summary: str
    emitters: Mapping[Any, Emit]
    absorbs: Callable[[fx.Node, Program], bool]
