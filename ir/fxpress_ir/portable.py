"""integer Program ==> plain data (JSON and arrays) that an interpreter needs neither torch nor code to read.

``{"inputs": [...], "nodes": [...], "outputs": [...]}``. A node is ``{"name", "operator", "arguments", "type"}``; an
argument is a number, a string (a dtype such as ``"int8"``), null, a list of these, ``{"node": name}`` or
``{"tensor": name}``. Operators are named ``fxp.conv2d``, ``aten.flatten``; arguments carry the schema's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from .digest import digest
from .errors import ProgramError
from .ops import arguments
from .program import Program
from .signature import Dimension, InputSpec

FORMAT = 1


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _argument(value: Any, stored: Mapping[str, str]) -> Any:
    if isinstance(value, fx.Node):
        return {"tensor": stored[str(value.target)]} if value.op == "get_attr" else {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_argument(item, stored) for item in value]
    if isinstance(value, torch.dtype):
        return _name(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.memory_format, torch.layout, torch.device)):
        return None
    raise ProgramError(f"argument {value!r} has no portable form")


def _stored(program: Program) -> dict[str, str]:
    """For each tensor the name that it is stored by: that of the first one with the same type, shape and bytes."""
    first: dict[str, str] = {}
    return {name: first.setdefault(digest(tensor), name) for name, tensor in program.tensors.items()}


def _node(node: fx.Node, stored: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(node.target, torch._ops.OpOverload):
        operator = f"{node.target.namespace}.{node.target._opname}"
        named = {name: _argument(value, stored) for name, value in arguments(node).items()}
    else:
        operator = f"python.{node.target.__name__}"  # type: ignore[union-attr]
        named = {str(position): _argument(value, stored) for position, value in enumerate(node.args)}
    value = node.meta["val"]
    return {
        "name": node.name,
        "operator": operator,
        "arguments": named,
        "type": _name(value.dtype) if isinstance(value, torch.Tensor) else "size",
    }


def signature(inputs: tuple[InputSpec, ...]) -> list[dict[str, Any]]:
    """The inputs as plain data; a dynamic dimension is ``{"name", "minimum", "maximum"}``."""

    def size(dimension: int | Dimension) -> Any:
        if isinstance(dimension, int):
            return dimension
        return {"name": dimension.name, "minimum": dimension.minimum, "maximum": dimension.maximum}

    return [
        {"name": spec.name, "dtype": _name(spec.dtype), "shape": [size(d) for d in spec.shape], **in_steps(spec.scale)} for spec in inputs
    ]


def in_steps(scale: float | None) -> dict[str, float]:
    """The entry of a signature that says what one step of its integers is; none where they stand for themselves."""
    return {} if scale is None else {"scale": scale}


def read_signature(data: list[dict[str, Any]]) -> tuple[InputSpec, ...]:
    """The inverse of `signature`."""

    def size(dimension: Any) -> int | Dimension:
        return dimension if isinstance(dimension, int) else Dimension(dimension["name"], dimension["minimum"], dimension["maximum"])

    return tuple(
        InputSpec(spec["name"], tuple(map(size, spec["shape"])), getattr(torch, spec["dtype"]), spec.get("scale")) for spec in data
    )


def graph_data(program: Program) -> dict[str, Any]:
    """The graph as plain data.

    Raises:
        ProgramError: a node has an argument that is neither a number, a type, a list nor a value of the graph.
    """
    stored = _stored(program)
    return {
        "format": FORMAT,
        "stage": program.stage,
        "inputs": signature(program.inputs),
        "nodes": [_node(node, stored) for node in program.graph.nodes if node.op == "call_function"],
        "outputs": [node.name for node in program.outputs()],
    }


def tensor_data(program: Program) -> dict[str, NDArray[Any]]:
    """The tensors as arrays, by the names that the graph uses; equal ones are stored once."""
    names = dict.fromkeys(_stored(program).values())
    return {name: np.ascontiguousarray(program.tensors[name].detach().cpu().numpy()) for name in names}
