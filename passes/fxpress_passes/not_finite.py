"""float program, batch ==> the first node whose value is NaN, else the first that is infinite."""

from __future__ import annotations

from typing import Any

import torch
from fxpress_ir import Program
from torch import Tensor, fx


def first_not_finite(program: Program, batch: tuple[Tensor, ...]) -> tuple[str, str] | None:
    """The node's name and what it is, `NaN` before `infinite`: an infinity may be meant (a mask), NaN is not; None where all is finite."""
    search = _Search(program.module)
    with torch.no_grad():
        search.run(*batch)
    return next(((search.found[what], what) for what in ("NaN", "infinite") if what in search.found), None)


class _Search(fx.Interpreter):
    """Values die at their last use."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.found: dict[str, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op != "output" and isinstance(value, Tensor) and value.is_floating_point():
            if bool(value.isnan().any()):
                self.found.setdefault("NaN", n.name)
            if bool(value.isinf().any()):
                self.found.setdefault("infinite", n.name)
        return value
