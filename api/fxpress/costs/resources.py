"""program ==> bytes of weights at their bits, multiply-accumulates, bit operations, memory and seconds, of the whole and by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.aliases import base, shares_memory
from fxpress_ir.analysis.cost import macs
from fxpress_ir.analysis.sizes import concrete_size
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .measured import GroupCosts

_fxp = torch.ops.fxp
_QUANTIZERS = (_fxp.fake_quantize.default, _fxp.fake_quantize_channels.default)


@dataclass(frozen=True)
class NodeResources:
    """What one node takes.

    Attributes:
        size: bytes of the constants that it is the first to read, integers at as many bits as they span.
        macs: multiply-accumulates.
        bops: multiply-accumulates times bits of both factors (HAWQ-V3).
        activation_bytes: of its result; 0 for a view.
        seconds: its share of the time of its groups; None where nothing was measured.
    """

    size: float
    macs: int
    bops: float
    activation_bytes: int
    seconds: float | None = None


@dataclass(frozen=True)
class Resources:
    """What a program takes.

    Attributes:
        size, macs, bops: sums over its nodes.
        peak_memory: most bytes of activations live at once, inputs included, weights not.
        seconds: of one run, what the runtime takes itself included; None where nothing was measured.
        nodes: by name, of all that compute something.
    """

    size: float
    macs: int
    bops: float
    peak_memory: int
    seconds: float | None
    nodes: Mapping[str, NodeResources]


def resources(program: Program, sizes: Mapping[str, int] | None = None, costs: GroupCosts | None = None) -> Resources:
    """All that a program takes, at any stage.

    Args:
        sizes: of dynamic dimensions; 1 unless given, as in `Program.cost`.
        costs: its measured or predicted time.

    Raises:
        ProgramError: `sizes` names a dimension that the program does not have.
    """
    whole = program.cost(**(sizes or {}))
    symbols = {symbol: (sizes or {}).get(name, 1) for symbol, name in program.symbols().items()}
    owned = _owned(program)
    nodes = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target not in _QUANTIZERS:
            count = macs(node, symbols)
            factors = [operand for operand in node.all_input_nodes if isinstance(operand.meta.get("val"), Tensor)][:2] if count else []
            bops = float(count * prod(_bits(factor, program) for factor in (factors * 2)[:2]))
            seconds = None if costs is None else costs.by_node.get(node.name, 0.0)
            nodes[node.name] = NodeResources(owned.get(node, 0.0), count, bops, _bytes(node, symbols), seconds)
    size, bops = sum(owned.values()), sum(one.bops for one in nodes.values())
    return Resources(size, whole.macs, bops, whole.peak_memory, None if costs is None else costs.seconds, nodes)


def _owned(program: Program) -> dict[fx.Node, float]:
    """Bytes of constants by the node that first reads them, quantisers left out; each tensor once."""
    found: dict[fx.Node, float] = {}
    seen: set[str] = set()
    for node in program.graph.nodes:
        if node.op == "get_attr" and str(node.target) not in seen:
            reader = next(iter(node.users), node)
            while reader.target in _QUANTIZERS and reader.users:
                node, reader = reader, next(iter(reader.users))
            tensor = _constant(node, program)
            seen.update(str(used.target) for used in (node, *node.all_input_nodes) if used.op == "get_attr")
            found[reader] = found.get(reader, 0.0) + tensor.numel() * _bits(node, program) / 8
    return found


def _constant(node: fx.Node, program: Program) -> Tensor:
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return program.tensors[str(node.target)]


def _bits(node: fx.Node, program: Program) -> int:
    """Of one element: of a quantised value those of its range, of an integer constant those that its values span."""
    node = base(node)
    if node.op == "get_attr":
        tensor = program.tensors[str(node.target)]
        if tensor.dtype not in (torch.int8, torch.uint8) or not tensor.numel():
            return tensor.element_size() * 8
        return max(1, (int(tensor.max()) - int(tensor.min())).bit_length())
    named: Mapping[str, Any] = arguments(node) if node.op == "call_function" and hasattr(node.target, "_schema") else {}
    if isinstance(named.get("qmin"), int) and isinstance(named.get("qmax"), int):
        return int(named["qmax"] - named["qmin"]).bit_length()
    value = node.meta["val"]
    return int(value.element_size()) * 8


def _bytes(node: fx.Node, symbols: Mapping[str, int]) -> int:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or shares_memory(node):
        return 0
    return prod(concrete_size(size, symbols) for size in value.shape) * value.element_size()
