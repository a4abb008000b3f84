"""integer or mixed Program ==> physical plan: inputs are stored, each operator's rule adds its groups, outputs are given back."""

from __future__ import annotations

from fxpress_ir import Program
from fxpress_ir.ops import INTEGER_OPERATORS, LOGIC_OPERATORS, LOOKUP_OPERATORS, SHAPE_OPERATORS
from torch import Tensor

from fxpress_backends.contract import Target

from .draft import Draft
from .islands import Island, steps
from .logic import logic
from .moves import embedding, rearrange
from .physical import Plan
from .rules import RULES


def plan(program: Program, target: Target, *, fuses_additions: bool = True, nibbles: bool | None = None) -> Plan:
    """The physical plan of a program that `legalize` has nothing against; a function of its arguments alone.

    Args:
        fuses_additions: an addition runs in the registers of the convolution that it alone reads.
        nibbles: weights of 4 bits are split in registers wherever a kernel can, or nowhere; where it should pay if it is None.
    """
    draft = Draft(program, target, fuses_additions=fuses_additions, nibbles=nibbles)
    for step in steps(program):
        if isinstance(step, Island):
            draft.call(step)
        elif step.op == "placeholder":
            draft.enter(step)
        elif step.op == "call_function" and step.target in SHAPE_OPERATORS:
            rearrange(draft, step)
        elif step.op == "call_function" and step.target in LOOKUP_OPERATORS:
            embedding(draft, step)
        elif step.op == "call_function" and step.target in LOGIC_OPERATORS:
            logic(draft, step)
        elif step.op == "call_function" and isinstance(step.meta["val"], Tensor):
            RULES[INTEGER_OPERATORS[step.target].name](draft, step)
    return draft.plan(tuple(map(draft.plainly, program.outputs())))
