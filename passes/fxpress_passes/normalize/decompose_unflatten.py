"""unflatten(x, dim, sizes) ==> view(x, the sizes before, sizes, the sizes after)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Context, Exact, Pass, Promise

_aten = torch.ops.aten


@dataclass(frozen=True)
class DecomposeUnflatten(Pass):
    """Write the splitting of a dimension as the view that it is; symbolic sizes stay symbolic."""

    name: ClassVar[str] = "decompose-unflatten"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        found = [node for node in program.graph.nodes if node.target is _aten.unflatten.int]
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            named = arguments(node)
            x: fx.Node = named["self"]
            sizes: list[Any] = []
            with edit.graph.inserting_before(node):
                for dimension, size in enumerate(x.meta["val"].shape):
                    if dimension == named["dim"] % x.meta["val"].dim():
                        sizes += named["sizes"]
                    else:
                        sizes.append(size if isinstance(size, int) else edit.call(_aten.sym_size.int, x, dimension, like=node))
                view = edit.call(_aten.reshape.default, x, sizes, like=node)
            edit.replace(node, view)
        return edit.finish()
