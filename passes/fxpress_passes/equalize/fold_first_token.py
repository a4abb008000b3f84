"""linear(x) ==> cat([constant, linear(x[:, 1:])], 1) where the first token, always the same, stretches the range of x."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.analysis.sizes import concrete_size
from fxpress_ir.errors import PassError, PipelineError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise
from .first_position import known_first, least_sizes
from .flat import over_positions
from .positions import Firsts, computed_operands, is_by_position, members_of
from .sites import is_layer

_aten = torch.ops.aten
_END = torch.iinfo(torch.int64).max
_SPREAD = 1e-3
"""How far the first positions of calibration data may be from the token's, relative to the largest of it."""


@dataclass(frozen=True)
class FoldFirstToken(Pass):
    """Compute what is at the first position beforehand, where it stretches ranges (MixDQ's BOS-aware quantisation, M191).

    For models in which the first position sees itself alone: causal decoders whose sequences all begin with one token, and class
    tokens before attention, which need no declaration. What the position depends on is followed through the graph; that data
    begin with the token, and that its values there do not differ, is checked on calibration data. From where the first position
    is more than `factor` times as far from 0 as all others, up to where it no longer is, values are computed for the other
    positions alone and a constant row is put in front of what others read. Sequences have to be at least 2 long.

    Options:
        token: the id that every sequence begins with; -1: none is declared.
        factor: how much wider than the others' the first position's reach has to be.
    """

    name: ClassVar[str] = "fold-first-token"
    promise: ClassVar[Promise] = Close(1e-4, "sums of other shapes are rounded in another order; sequences begin with the token")
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants")
    needs: ClassVar[tuple[str, ...]] = (
        *("remove-noops", "fold-constants", "fold-positions", "compose-linear", "compose-rms-norm", "decompose-index"),
        *("decompose-unflatten", "decompose-roll", "decompose-attention"),
    )
    token: int = -1
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.token < -1:
            raise PipelineError(f"token={self.token}", where=self.name, way_on="an id, or -1 for none")
        if not self.factor >= 1:
            raise PipelineError(f"factor={self.factor:g}", where=self.name, way_on="1 or more")

    def apply(self, program: Program, context: Context) -> Program:
        return self._folded(over_positions(program), context) or program

    def _folded(self, program: Program, context: Context) -> Program | None:
        """The program with the first position folded, None where nothing is."""
        ids = _ids(program) if self.token >= 0 else None
        if self.token >= 0 and ids is None:
            context.refuse(program.placeholders()[0], "no input is read as ids by an embedding", "leave token out")
            return None
        if ids is not None and self.token >= _vocabulary(ids):
            raise PassError(f"token={self.token}", where=self.name, way_on=f"the model knows 0 to {_vocabulary(ids) - 1}")
        layers = [node for node in program.graph.nodes if is_layer(node) and _input(node).meta["val"].dim() == 3]
        if not layers:
            context.refuse(ids or program.placeholders()[0], "no linear layer reads [batch, positions, channels]")
            return None
        known = known_first(program, ids)
        observer = Firsts(program, {*known, *map(_input, layers)}, ids, self.token)
        for batch in context.evidence.calibration.batches(program):
            observer.observe(batch)
        if ids is not None and observer.token_differs is not None:
            found = f"calibration data begin with {observer.token_differs} too, not always with {self.token}"
            context.refuse(ids, found, "declare the token that every sequence begins with")
            return None
        members = self._members(program, layers, known, observer, context)
        return _rewrite(program, members, observer.rows) if members else None

    def _members(
        self, program: Program, layers: Sequence[fx.Node], known: Sequence[fx.Node], observer: Firsts, context: Context
    ) -> list[fx.Node]:
        """What is to be computed without the first position, in order."""
        steady = {node for node in known if observer.spread(node) <= _SPREAD}
        minima = least_sizes(program)
        begins: list[fx.Node] = []
        for layer in layers:
            source = _input(layer)
            if not observer.stretches(source, self.factor):
                continue
            reason = _refusal(layer, source, known, steady, minima)
            if reason is None:
                begins.append(source)
            else:
                context.refuse(layer, f"the first position stretches its input, and stays: {reason[0]}", reason[1])
        stretched = {node for node in steady if observer.stretches(node, self.factor)}
        members = members_of(begins, stretched, steady)
        return [node for node in known if node in members]


def _refusal(
    layer: fx.Node, source: fx.Node, known: Collection[fx.Node], steady: Collection[fx.Node], minima: Mapping[str, int]
) -> tuple[str, str] | None:
    """Why the first position of what a layer reads is not folded, and the way on."""
    if source not in known:
        return "it depends on more than the first token", "causal attention alone leaves it to itself"
    if source not in steady:
        return "it differs between sequences", "batches may be mixed there"
    for node, what in ((source, "it"), (layer, "its result")):
        if any(user.op == "output" for user in node.users):
            return f"{what} leaves the program", ""
    if not is_by_position(source):
        return f"{source.target} computes all positions at once", ""
    if concrete_size(source.meta["val"].shape[1], minima) < 2:
        return "sequences may be 1 long", "capture the dimension with Dim(min=2)"
    return None


def _input(layer: fx.Node) -> fx.Node:
    node: fx.Node = arguments(layer)["input"]
    return node


def _ids(program: Program) -> fx.Node | None:
    """The input [batch, positions] of integers that an embedding reads."""
    for node in program.placeholders():
        value = node.meta["val"]
        if value.dim() == 2 and not value.is_floating_point() and _embeddings(node):
            return node
    return None


def _embeddings(ids: fx.Node) -> list[fx.Node]:
    return [user for user in ids.users if user.target is _aten.embedding.default and arguments(user)["indices"] is ids]


def _vocabulary(ids: fx.Node) -> int:
    """How many ids there are."""
    return min(int(arguments(user)["weight"].meta["val"].shape[0]) for user in _embeddings(ids))


def _rewrite(program: Program, members: Sequence[fx.Node], rows: dict[str, Tensor]) -> Program:
    edit = program.edit()
    here = {edit.here(member): member for member in members}
    parts: dict[fx.Node, fx.Node] = {}
    for member in here:
        for operand in computed_operands(member):
            if operand in here:
                continue
            if operand not in parts:
                parts[operand] = _others(edit, operand)
            member.replace_input_with(operand, parts[operand])
    for member, original in here.items():
        readers = [user for user in member.users if user not in here and user not in parts.values()]
        if readers:
            whole = _whole(edit, member, rows[original.name])
            for reader in readers:
                reader.replace_input_with(member, whole)
    return edit.finish()


def _others(edit: Edit, value: fx.Node) -> fx.Node:
    """All positions but the first."""
    with edit.graph.inserting_after(value):
        return edit.call(_aten.slice.Tensor, value, 1, 1, _END, like=value)


def _whole(edit: Edit, value: fx.Node, row: Tensor) -> fx.Node:
    """A constant row [1, 1, channels] in front of the others."""
    batch: Any = value.meta["val"].shape[0]
    with edit.graph.inserting_after(value):
        held = edit.add_tensor(f"{value.name}.first", row)
    with edit.graph.inserting_after(held):
        if not isinstance(batch, int):
            batch = edit.call(_aten.sym_size.int, value, 0, like=value)
    with edit.graph.inserting_after(batch if isinstance(batch, fx.Node) else held):
        spread = edit.call(_aten.expand.default, held, [batch, -1, -1], like=value)
    with edit.graph.inserting_after(spread):
        return edit.call(_aten.cat.default, [spread, value], 1, like=value)
