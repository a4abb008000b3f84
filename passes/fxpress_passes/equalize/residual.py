"""A normalisation's input ==> the residual stream that it belongs to: all who write to it, all who read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fxpress_ir import Program
from fxpress_ir.ops import SHAPE_OPERATORS, SIZE_OPERATORS, arguments
from torch import Tensor, fx

from .carry import carries, path_to
from .sites import is_layer

_aten = torch.ops.aten
NORMS = (_aten.layer_norm.default, _aten.rms_norm.default)
_CONVOLUTIONS = (_aten.conv2d.default, _aten.conv2d.padding)


@dataclass(frozen=True)
class Residual:
    """Values of `width` channels that one matrix may multiply.

    Attributes:
        writers: layers whose rows are the stream's channels.
        tables: embeddings with constant tables.
        constants: who reads a constant of the stream, and the constant.
        norms: normalisations of the stream that layers alone read.
        readers: layers and the normalisation that each reads, None where it reads the stream itself.
        centred: LayerNorms read it, to which a mean of the channels is nothing.
    """

    width: int
    writers: tuple[fx.Node, ...]
    tables: tuple[fx.Node, ...]
    constants: tuple[tuple[fx.Node, fx.Node], ...]
    norms: tuple[fx.Node, ...]
    readers: tuple[tuple[fx.Node, fx.Node | None], ...]
    centred: bool


def residuals(program: Program) -> Iterator[Residual | tuple[fx.Node, str]]:
    """Every stream that normalisations read, or a node of it and why it is none that one matrix may multiply."""
    seen: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.target in NORMS and node not in seen:
            walk = _Walk(program, node)
            found = walk.residual()
            seen |= walk.norms.keys() | {node}
            yield found


class _Walk:
    """From one normalisation's input to everything that has to be multiplied with it."""

    def __init__(self, program: Program, norm: fx.Node) -> None:
        self.program, self.norm = program, norm
        self.norms: dict[fx.Node, None] = {}
        self._writers: dict[fx.Node, None] = {}
        self._tables: dict[fx.Node, None] = {}
        self._constants: dict[tuple[fx.Node, fx.Node], None] = {}
        self._readers: dict[tuple[fx.Node, fx.Node | None], None] = {}
        self._left: list[fx.Node] = []

    def residual(self) -> Residual | tuple[fx.Node, str]:
        """All of it, or where it ends and why."""
        width = arguments(self.norm)["normalized_shape"]
        if len(width) != 1 or not isinstance(width[0], int) or width[0] % 2:
            return self.norm, f"it normalises over {width}, which no Hadamard matrix multiplies"
        self._width: int = width[0]
        self._take(self.norm, arguments(self.norm)["input"])
        members: set[fx.Node] = set()
        while self._left:
            value = self._left.pop()
            if value in members:
                continue
            members.add(value)
            reason = self._sources(value) or next(filter(None, (self._user(value, user) for user in list(value.users))), None)
            if reason is not None:
                return value, reason
        kinds = {node.target for node in self.norms}
        direct = [layer for layer, norm in self._readers if norm is None]
        if len(kinds) > 1:
            return self.norm, "its input is read by LayerNorms and RMSNorms"
        centred = kinds == {_aten.layer_norm.default}
        if centred and direct:
            return direct[0], "it reads the mean of the channels, which LayerNorms beside it do not"
        constants, norms, readers = tuple(self._constants), tuple(self.norms), tuple(self._readers)
        return Residual(self._width, tuple(self._writers), tuple(self._tables), constants, norms, readers, centred)

    def _take(self, reader: fx.Node, value: fx.Node) -> None:
        if value.op == "get_attr":
            self._constants[reader, value] = None
        else:
            self._left.append(value)

    def _sources(self, value: fx.Node) -> str | None:
        """Follow what computes a value of the stream; or why nothing could multiply it."""
        if is_layer(value):
            self._writers[value] = None
        elif value.target is _aten.embedding.default and arguments(value)["weight"].op == "get_attr":
            self._tables[value] = None
        elif (operands := self._joined(value)) is not None:
            if any(operand.meta["val"].shape[-1] != self._width for operand in operands):
                return "a value of other channels is added to it"
            for operand in operands:
                self._take(value, operand)
        elif (layer := self._moved_layer(value)) is not None:
            self._writers[layer] = None
        else:
            return f"it comes from {value.target if value.op == 'call_function' else 'an input'}, which takes no matrix"
        return None

    def _user(self, value: fx.Node, user: fx.Node) -> str | None:
        """Follow who reads a value of the stream; or why it could not be undone there."""
        if user.target in SIZE_OPERATORS:
            return None
        if user.target in NORMS and user.args[0] is value and arguments(user)["normalized_shape"] == [self._width]:
            self.norms[user] = None
            return self._norm_users(user, user)
        if is_layer(user) and user.args[0] is value:
            self._readers[user, None] = None
            return None
        if self._joined(user) is None:
            return _reads(user)
        self._left.append(user)
        return None

    def _norm_users(self, norm: fx.Node, value: fx.Node) -> str | None:
        """Layers, behind moves or not, are all that may read a normalised value."""
        for user in value.users:
            if is_layer(user) and user.args[0] is value:
                self._readers[user, norm] = None
            elif user.target in SHAPE_OPERATORS and carries(self.program, [value, user], self._width):
                if (reason := self._norm_users(norm, user)) is not None:
                    return reason
            elif user.target not in SIZE_OPERATORS:
                return _reads(user)
        return None

    def _joined(self, node: fx.Node) -> list[fx.Node] | None:
        """The values that a node adds, concatenates, averages or moves without mixing channels; None where it does something else."""
        if node.op != "call_function":
            return None
        rank = node.meta["val"].dim() if isinstance(node.meta["val"], Tensor) else 0
        if node.target is _aten.add.Tensor and arguments(node)["alpha"] == 1:
            operands = [arguments(node)["self"], arguments(node)["other"]]
            return operands if all(isinstance(operand, fx.Node) for operand in operands) else None
        if node.target is _aten.cat.default and arguments(node)["dim"] % rank != rank - 1:
            return list(arguments(node)["tensors"])
        if node.target is _aten.mean.dim and arguments(node)["dim"]:
            source: fx.Node = arguments(node)["self"]
            last = source.meta["val"].dim() - 1
            return None if any(dim % (last + 1) == last for dim in arguments(node)["dim"]) else [source]
        if node.target in SHAPE_OPERATORS and carries(self.program, [node.args[0], node], self._width):  # type: ignore[list-item]
            return [node.args[0]]  # type: ignore[list-item]
        return None

    def _moved_layer(self, value: fx.Node) -> fx.Node | None:
        """The layer or convolution whose channels, moved, are the last dimension of a value."""
        node = value
        while node.target in SHAPE_OPERATORS and len(node.args[0].users) == 1:  # type: ignore[union-attr]
            node = node.args[0]  # type: ignore[assignment]
        if node.target in _CONVOLUTIONS:
            named = arguments(node)
            constant = named["weight"].op == "get_attr" and (named["bias"] is None or named["bias"].op == "get_attr")
            if not constant or named["groups"] != 1 or node.meta["val"].dim() != 4:
                return None
        elif not is_layer(node):
            return None
        axis = 1 if node.target in _CONVOLUTIONS else -1
        if node.meta["val"].shape[axis] != self._width:
            return None
        return node if carries(self.program, path_to(value, node), self._width, axis) else None


def _reads(user: fx.Node) -> str:
    return "it leaves the program" if user.op == "output" else f"{user.target} reads it, which would see another value"
