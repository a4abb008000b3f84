"""nodes of a program ==> a text that is equal where they do the same work on memory of the same sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.sizes import concrete, concrete_size
from fxpress_ir.errors import BackendError
from fxpress_ir.ops import arguments
from fxpress_ir.signature import Dimension
from torch import Tensor, fx

_STRUCTURE = frozenset({"groups", "axis", "dim"})
"""Numbers of integer operators that say what is computed; the others are multipliers, shifts and limits."""


def sizes_at(program: Program, sizes: Mapping[str, int], where: str = "") -> dict[str, int]:
    """The size of every dynamic dimension: the least that the program takes where `sizes` names none.

    Raises:
        BackendError: `sizes` names no dimension of the program or leaves its range.
    """
    known = {size.name: size for spec in program.inputs for size in spec.shape if isinstance(size, Dimension)}
    for name, size in sizes.items():
        dimension = known.get(name)
        if dimension is None:
            raise BackendError(f"no dynamic dimension {name!r}", where=where, way_on=f"there is {', '.join(known) or 'none'}")
        if not dimension.admits(size):
            raise BackendError(f"{name}={size} is outside of {dimension}", where=where, way_on="give a size that the program takes")
    return {**{name: size.minimum for name, size in known.items()}, **sizes}


def signature(kind: str, work: str) -> str:
    """`kind`, a colon and a digest of both."""
    return f"{kind}:{hashlib.sha256(f'{kind} {work}'.encode()).hexdigest()[:16]}"


def work_of(nodes: Sequence[fx.Node], symbols: Mapping[str, int]) -> str:
    """Operators, shapes and types of the nodes, and what of their arguments is no value; equal for equal layers of any names.

    Args:
        symbols: the number behind each symbol of the fake values.
    """
    places = {node: place for place, node in enumerate(nodes)}
    return "; ".join(_work_of(node, places, symbols) for node in nodes)


def kind_of(nodes: Sequence[fx.Node]) -> str:
    """The operators' names, each once, in order."""
    return "+".join(dict.fromkeys(_name(node) for node in nodes))


def _name(node: fx.Node) -> str:
    return node.op if node.op != "call_function" else str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", "call"))


def _work_of(node: fx.Node, places: Mapping[fx.Node, int], symbols: Mapping[str, int]) -> str:
    is_ours = getattr(node.target, "namespace", "") == "fxp"

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            inside = f"#{places[value]} " if value in places else ""
            return inside + _type(value.meta.get("val"), symbols)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(text, value))}]"
        return str(value)

    def counts(name: str, value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return not isinstance(value, float) and (not is_number or not is_ours or name in _STRUCTURE)

    has_schema = isinstance(node.target, torch._ops.OpOverload)
    named = arguments(node) if has_schema else dict(enumerate(node.args)) if node.op == "call_function" else {}
    given = [f"{name}={text(value)}" for name, value in named.items() if counts(str(name), value)]
    return f"{_name(node)}({', '.join(given)}) -> {_type(node.meta.get('val'), symbols)}"


def _type(value: Any, symbols: Mapping[str, int]) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{[concrete_size(size, symbols) for size in value.shape]}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_type(item, symbols) for item in value)})"
    return str(concrete(value, symbols))
