"""f(constants) ==> constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..contract import Context, Exact, Pass, Promise


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute once what depends on no input.

    Options:
        max_growth: bytes that one folded tensor may be larger than the tensors it came from; an expanded
            constant above that stays an operator.
    """

    name: ClassVar[str] = "fold-constants"
    promise: ClassVar[Promise] = Exact()
    max_growth: int = 1 << 20

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        values: dict[fx.Node, Tensor] = {node: edit.tensor(node) for node in edit.graph.find_nodes(op="get_attr")}
        folded = []
        for node in edit.graph.nodes:
            if not _is_constant(node, values):
                continue
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                result = node.target(*args, **kwargs)
            grown = _bytes(result) - sum(map(_bytes, _operands(node, values)))
            if grown > self.max_growth:
                context.refuse(node, f"folding would add {grown} bytes", f"raise max_growth above {self.max_growth}")
                continue
            values[node] = result.detach().contiguous()
            folded.append(node)
        if not folded:
            return program
        for node in folded:
            if any(user not in values for user in node.users):
                with edit.graph.inserting_before(node):
                    edit.replace(node, edit.add_tensor(f"folded.{node.name}", values[node]))
        return edit.finish()


def _is_constant(node: fx.Node, values: dict[fx.Node, Tensor]) -> bool:
    """An operator that always gives the same tensor: all inputs known, no random numbers, no symbolic size."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or not isinstance(node.meta.get("val"), Tensor):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags or any(not isinstance(size, int) for size in node.meta["val"].shape):
        return False
    return all(used in values for used in node.all_input_nodes)


def _operands(node: fx.Node, values: dict[fx.Node, Tensor]) -> list[Tensor]:
    """The constant tensors that a node reads."""
    return [values[used] for used in node.all_input_nodes]


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
