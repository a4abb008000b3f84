"""program ==> the weights that can be pruned, each with the layers that read it; a weight as a matrix of rows, channels last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context
from ..evidence.input_norms import LAYERS


@dataclass(frozen=True)
class Layer:
    """A constant weight, by its tensor's name, and the linear layers or convolutions that read it, in order."""

    weight: str
    readers: tuple[fx.Node, ...]

    @property
    def name(self) -> str:
        """Of the first reader."""
        return self.readers[0].name


def prunable(program: Program, context: Context) -> list[Layer]:
    """In the order in which they run; every other layer is refused."""
    return list(_found(program, context))


def _found(program: Program, context: Context) -> Iterator[Layer]:
    seen: dict[str, fx.Node] = {}
    readers: dict[str, list[fx.Node]] = {}
    for constant in program.graph.find_nodes(op="get_attr"):
        readers.setdefault(str(constant.target), []).extend(constant.users)
    for node in program.graph.nodes:
        if node.target not in LAYERS:
            continue
        weight = arguments(node)["weight"]
        if weight.op != "get_attr":
            context.refuse(node, "its weight is computed", "run fold-constants first")
            continue
        name = str(weight.target)
        others = [user for user in readers[name] if user.target not in LAYERS or arguments(user)["weight"].target != name]
        if others:
            context.refuse(node, f"its weight is also read by {others[0].name}", "untie the two")
        elif not program.tensors[name].is_floating_point():
            context.refuse(node, f"its weight is {program.tensors[name].dtype}", "prune the float program")
        elif name not in seen:
            seen[name] = node
            yield Layer(name, tuple(user for user in program.graph.nodes if user in readers[name]))


def as_matrix(weight: Tensor) -> Tensor:
    """[outputs, inputs, *window] ==> [outputs, window * inputs]: neighbours in a row are neighbouring input channels."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def as_weight(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_matrix`."""
    outputs, inputs, *window = like.shape
    return matrix.reshape(outputs, *window, inputs).movedim(-1, 1).contiguous()


def columns(weight: Tensor) -> int:
    """Of its matrix."""
    return prod(weight.shape[1:])
