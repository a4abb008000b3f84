"""y = f(x) that nothing reads ==> nothing; tensors that nothing names ==> nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxpress_ir import Program

from ..contract import Context, Exact, Pass, Promise


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Drop operators whose results do not reach an output, and tensors that no node names. Inputs stay."""

    name: ClassVar[str] = "eliminate-dead-code"
    promise: ClassVar[Promise] = Exact()
    takes: ClassVar[tuple[str, ...]] = ("float", "simulated", "mixed", "integer")

    def apply(self, program: Program, context: Context) -> Program:
        dead = any(not node.users for node in program.graph.nodes if node.op in ("call_function", "get_attr"))
        unnamed = program.tensors.keys() - {str(node.target) for node in program.graph.find_nodes(op="get_attr")}
        return program.edit().finish() if dead or unnamed else program
