"""integer Program ==> the nodes that the interpreter has no kernel for."""

from __future__ import annotations

from collections.abc import Iterator

from fxpress_ir import Program
from fxpress_ir.portable import graph_data

from ..contract import Refusal
from .kernels import KERNELS


def refusals(program: Program) -> Iterator[Refusal]:
    """Every node without a kernel, and every output that is a stored tensor; for another than an integer program that alone."""
    if program.stage != "integer":
        way_on = "`fxpress targets` says which targets take it; integer_only names what stays in floats"
        yield Refusal("program", f"its stage is {program.stage}: the reference computes integers alone", way_on)
        return
    for node in graph_data(program)["nodes"]:
        if node["operator"] not in KERNELS:
            yield Refusal(node["name"], f"{node['operator']} has no reference kernel", "keep it out of the integer program")
    for node in program.outputs():
        if node.op == "get_attr":
            yield Refusal(node.name, "the output is a constant", "return computed values only")
