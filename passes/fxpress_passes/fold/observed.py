"""program, the first calibration batch ==> what its layers read there, which folds are then run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from torch import SymInt, Tensor, fx

from ..contract import Context

MOST_BYTES = 1 << 28
"""Of the values that are kept; layers beyond it are held on random inputs."""


@dataclass
class Observed:
    """Values of a program on the first calibration batch, computed when the first of them is asked for.

    Args:
        most: bytes of values that are kept, in the order of the program.
    """

    program: Program
    context: Context
    most: int = MOST_BYTES

    def of(self, node: fx.Node) -> Tensor | None:
        """The value of the node of this name; None without calibration data, and where it was not kept or is not finite."""
        return self._values.get(node.name)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Symbol ==> its size in the batch; none without one."""
        found: dict[str, int] = {}
        for node, value in zip(self.program.placeholders(), self._batch or (), strict=False):
            pairs = zip(node.meta["val"].shape, value.shape, strict=True)
            found |= {str(size.node.expr): actual for size, actual in pairs if isinstance(size, SymInt) and size.node.expr.is_symbol}
        return found

    @cached_property
    def _batch(self) -> tuple[Tensor, ...] | None:
        try:
            return None if self.context.calibrated is None else self.context.calibrated.first(self.program)
        except CalibrationError:  # a state of what was measured, without the data
            return None

    @cached_property
    def _values(self) -> Mapping[str, Tensor]:
        if self._batch is None:
            return {}
        keeper = _Keeper(self.program, self.most)
        with torch.no_grad():
            keeper.run(*self._batch)
        return keeper.kept


class _Keeper(fx.Interpreter):
    """Runs a program and keeps the inputs and what is read together with constants, as layers read it."""

    def __init__(self, program: Program, most: int) -> None:
        super().__init__(program.module)
        self.extra_traceback = False
        self.kept: dict[str, Tensor] = {}
        self._left = most

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        read = n.op == "placeholder" or any(_is_constant(other) for user in n.users for other in user.all_input_nodes)
        if not read or n.op == "get_attr" or not isinstance(value, Tensor) or value.nbytes > self._left:
            return value
        if not value.is_floating_point() or bool(torch.isfinite(value).all()):
            self.kept[n.name] = value
            self._left -= value.nbytes
        return value


def _is_constant(node: fx.Node) -> bool:
    """A constant, or what a quantiser makes of one."""
    return node.op == "get_attr" or (bool(node.all_input_nodes) and all(used.op == "get_attr" for used in node.all_input_nodes))
