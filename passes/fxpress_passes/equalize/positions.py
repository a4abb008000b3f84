"""Values [batch, positions, channels] ==> which are computed position by position, and what their first positions are on data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.cones import ELEMENTWISE, constant_axis
from fxpress_ir.analysis.sizes import symbols
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .residual import NORMS
from .sites import is_layer

_aten = torch.ops.aten


def computed_operands(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node reads and that are no constants."""
    return [used for used in node.all_input_nodes if used.op != "get_attr" and isinstance(used.meta.get("val"), Tensor)]


def is_by_position(node: fx.Node) -> bool:
    """Each position of a result is computed of the same position of its operands and of constants that are the same for all.

    What leaves the program is not counted: it keeps the 16 bits that it has as an output.
    """
    if any(user.op == "output" for user in node.users):
        return False
    if is_layer(node):
        return True
    if node.target in NORMS:
        named = arguments(node)
        parts = (named["weight"], named.get("bias"))
        return len(named["normalized_shape"]) == 1 and all(part is None or part.op == "get_attr" for part in parts)
    if node.target not in ELEMENTWISE or node.meta["val"].dim() != 3:
        return False
    # as text, because a comparison of symbolic sizes would be remembered as a fact about them
    shapes = {str(part.meta["val"].shape) for part in (node, *computed_operands(node))}
    return len(shapes) == 1 and constant_axis(node) in (None, 2)


def members_of(begins: Sequence[fx.Node], stretched: Collection[fx.Node], known: Collection[fx.Node]) -> set[fx.Node]:
    """The values to compute without the first position, so that those they begin with are never seen with it.

    From a stretched value back to the stretched values that it is computed of, and on to all that is computed of it, position by
    position.
    """
    members: set[fx.Node] = set()
    left = [node for node in begins if is_by_position(node)]
    while left:
        node = left.pop()
        if node in members:
            continue
        members.add(node)
        left += [operand for operand in computed_operands(node) if operand in stretched and is_by_position(operand)]
        if node in stretched:
            left += [user for user in node.users if user in known and is_by_position(user)]
    return members


class Firsts(fx.Interpreter):
    """Runs a program and compares the first position of some values with the others, and with the token's own.

    Args:
        program: in the float stage.
        values: float32 [batch, positions, channels].
        ids: the input that begins with the token, or None.
        token: its id.

    Attributes:
        rows: by name, what a sequence's first position is, float32 [1, 1, channels].
        token_differs: an id that data began with in place of the token, or None.
    """

    def __init__(self, program: Program, values: Collection[fx.Node], ids: fx.Node | None, token: int) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self.rows: dict[str, Tensor] = {}
        self.token_differs: int | None = None
        self._position = None if ids is None else program.placeholders().index(ids)
        self._token, self._names = token, {node.name for node in values}
        self._first: dict[str, float] = {}
        self._rest: dict[str, float] = {}
        self._spread: dict[str, float] = {}
        self._of_token(program)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names:
            self._see(n.name, value.detach())
        return value

    def observe(self, batch: tuple[Tensor, ...]) -> None:
        if self._position is not None:
            others = batch[self._position][:, 0]
            others = others[others != self._token]
            self.token_differs = int(others[0]) if len(others) and self.token_differs is None else self.token_differs
        with torch.no_grad():
            self.run(*batch)

    def stretches(self, node: fx.Node, factor: float) -> bool:
        """The first position is more than `factor` times as far from 0 as the others."""
        return self._first.get(node.name, 0.0) > factor * self._rest.get(node.name, 0.0)

    def spread(self, node: fx.Node) -> float:
        """How far first positions are from the token's, over their largest value."""
        return self._spread[node.name] / max(self._first[node.name], 1e-30)

    def _of_token(self, program: Program) -> None:
        """What the token gives at the least sizes and at those that were captured, where it may not differ."""
        examples = symbols(node.meta["val"] for node in program.placeholders())
        captured = {name: example.size for symbol, name in program.symbols().items() if (example := examples[symbol]) is not None}
        for inputs in (program.example(), program.example(**captured)):
            if self._position is not None:
                inputs[self._position].fill_(self._token)
            with torch.no_grad():
                self.run(*inputs)
        self._first, self._rest = {}, {}

    def _see(self, name: str, value: Tensor) -> None:
        first, rest = value[:, :1], value[:, 1:]
        row = self.rows.setdefault(name, first[:1].clone())
        for kept, seen in ((self._first, first), (self._rest, rest), (self._spread, first - row)):
            kept[name] = max(kept.get(name, 0.0), float(seen.abs().max()) if seen.numel() else 0.0)
