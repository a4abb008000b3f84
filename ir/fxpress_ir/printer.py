"""Program ==> text, the one form that goldens, dumps, hashes and errors use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from .program import Program, named_size
from .signature import steps_text

_SHORT = {
    torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16", torch.bool: "bool",
    torch.int8: "s8", torch.uint8: "u8", torch.int16: "s16", torch.int32: "s32", torch.int64: "s64",
}  # fmt: skip


def type_text(program: Program, node: fx.Node) -> str:
    """``s8[batch, 16, 8, 8]``; several values print in parentheses, sizes and other scalars as ``size``."""
    return _type(node.meta.get("val"), program.symbols())


def _type(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_type(item, names) for item in value)})"
    if not isinstance(value, Tensor):
        return "size" if value is not None else "?"
    return f"{_SHORT.get(value.dtype, str(value.dtype))}[{', '.join(str(named_size(size, names)) for size in value.shape)}]"


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return f"%{value.target}" if value.op == "get_attr" else value.name
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument, value))}]"
    if isinstance(value, torch.dtype):
        return _SHORT.get(value, str(value))
    return repr(value)


def _call(node: fx.Node) -> str:
    parts = [*map(_argument, node.args), *(f"{key}={_argument(value)}" for key, value in node.kwargs.items())]
    operator = str(node.target) if isinstance(node.target, torch._ops.OpOverload) else f"python.{node.target.__name__}"  # type: ignore[union-attr]
    return f"{operator.removesuffix('.default')}({', '.join(parts)})"


def node_text(program: Program, node: fx.Node) -> str:
    """One line: ``name = operator(arguments) : type``."""
    return f"{node.name} = {_call(node)} : {type_text(program, node)}"


def text(program: Program) -> str:
    """The whole program; weights print by name and type, not by value."""
    lines = [f"{program.stage} program({', '.join(map(str, program.inputs))})"]
    lines += [f"  float island {name}" for name in program.islands]
    lines += [f"  %{node.target} : {type_text(program, node)}" for node in program.graph.find_nodes(op="get_attr")]
    lines += [f"  {node_text(program, node)}" for node in program.graph.nodes if node.op == "call_function"]
    returned = [f"{_argument(node)}{steps_text(scale)}" for node, scale in zip(program.outputs(), program.output_steps(), strict=True)]
    lines.append(f"  return {', '.join(returned)}")
    return "\n".join(lines)
