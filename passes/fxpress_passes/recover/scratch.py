"""trained tensors ==> tensors as training begins with them: what recovering a pruned program is held against."""

from __future__ import annotations

import math

import torch
from fxpress_ir import Program

from .roles import Roles


def from_scratch(program: Program, roles: Roles, generator: torch.Generator) -> Program:
    """The same architecture and the same zeros with weights drawn anew (Liu et al. 2019, Scratch-E).

    Weights are uniform, of deviation 1 / sqrt(inputs); biases are 0, gains 1 and shifts 0, tables normal of deviation
    1 / sqrt(width), other parameters normal of deviation 0.02.
    """
    edit = program.edit()
    for name in roles.everything:
        old = program.tensors[name].detach()
        if name in roles.weights:
            bound = math.sqrt(3 / roles.fans[name])
            drawn = torch.empty(old.shape, dtype=old.dtype).uniform_(-bound, bound, generator=generator)
            new = drawn.where(old != 0, 0.0)
        elif name in roles.biases:
            new = torch.zeros_like(old)
        elif name in roles.norms:
            new = torch.full_like(old, 1.0 if name in _gains(program) else 0.0)
        else:
            deviation = 1 / math.sqrt(old.shape[-1]) if name in roles.tables else 0.02
            new = torch.randn(old.shape, dtype=old.dtype, generator=generator) * deviation
        edit.tensors[name] = new
    return edit.finish()


def _gains(program: Program) -> set[str]:
    found = set()
    for node in program.graph.nodes:
        if getattr(node.target, "_opname", "") in ("batch_norm", "layer_norm", "rms_norm", "group_norm"):
            names = [argument.name for argument in node.target._schema.arguments]
            position = names.index("weight")
            weight = node.args[position] if len(node.args) > position else node.kwargs.get("weight")
            found.add(str(getattr(weight, "target", "")))
    return found
