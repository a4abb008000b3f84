"""integer Program ==> physical plan: inputs are stored, each operator's rule adds its groups, outputs are given back."""

from __future__ import annotations

from fxpress_ir import Program
from fxpress_ir.ops import INTEGER_OPERATORS, SHAPE_OPERATORS
from torch import Tensor, fx

from fxpress_backends.contract import Target

from .draft import Draft
from .moves import rearrange
from .physical import Plan
from .rules import RULES


def plan(program: Program, target: Target) -> Plan:
    """The physical plan of a program that `legalize` has nothing against; a function of its arguments alone."""
    draft = Draft(program, target)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            _enter(draft, node)
        elif node.op == "call_function" and node.target in SHAPE_OPERATORS:
            rearrange(draft, node)
        elif node.op == "call_function" and isinstance(node.meta["val"], Tensor):
            RULES[INTEGER_OPERATORS[node.target].name](draft, node)
    return draft.plan([_leave(draft, node) for node in program.outputs()])


def _enter(draft: Draft, node: fx.Node) -> None:
    """Floats wait for their quantisation; integers are stored as kernels read them."""
    given = draft.plain(node)
    draft.place(node, given)
    if not node.meta["val"].is_floating_point() and any(user.op != "output" for user in node.users):
        draft.emit("convert", [given], draft.stored(node), [node])


def _leave(draft: Draft, node: fx.Node) -> str:
    """The buffer that callers get; integers are given back in the program's own order and dtype."""
    plain = draft.plain(node)
    if node.op != "placeholder" and draft.buffer(node) != plain:
        draft.emit("convert", [draft.buffer(node)], plain, [node])
    return plain.name
