"""A(x), B(x) ==> slices of one layer with the rows of A and B: which layers read one value with one geometry, and how they are joined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context
from .readers import holders

_slice = torch.ops.aten.slice.Tensor
_OPERANDS = frozenset({"weight", "bias"})


def source(layer: fx.Node) -> fx.Node:
    """What a layer reads."""
    value = layer.args[0]
    assert isinstance(value, fx.Node)
    return value


def siblings(graph: fx.Graph, targets: Collection[Any]) -> list[list[fx.Node]]:
    """The layers of one operator that read one value and share their geometry, two or more, in program order."""
    found: dict[tuple[Any, ...], list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.target in targets:
            found[source(node), node.target, _geometry(node)].append(node)
    return [layers for layers in found.values() if len(layers) > 1]


def _geometry(layer: fx.Node) -> str:
    """All that has to be equal: strides and the like, and the weight but for its rows."""
    named, weight = arguments(layer), arguments(layer)["weight"].meta["val"]
    settings = [value for key, value in named.items() if key not in _OPERANDS and value is not source(layer)]
    return str((settings, weight.dtype, list(weight.shape[1:])))


def joinable(layers: Iterable[fx.Node], context: Context) -> list[fx.Node]:
    """Those whose weight and bias are constants of their own and whose rows are independent; the others are refused."""
    return [layer for layer in layers if not _refused(layer, context)]


def _refused(layer: fx.Node, context: Context) -> bool:
    named = arguments(layer)
    constants = [named[key] for key in ("weight", "bias") if named[key] is not None]
    if any(constant.op != "get_attr" for constant in constants):
        context.refuse(layer, "its weight or bias is computed", "run fold-constants first")
    elif named.get("groups", 1) != 1:
        context.refuse(layer, f"its {named['groups']} groups would not lie side by side", "it stays a layer of its own")
    elif len(holders(named["weight"])) > 1:
        context.refuse(layer, "its weight is read elsewhere too, so it would be stored twice", "it stays a layer of its own")
    else:
        return False
    return True


def kind(layers: Sequence[fx.Node]) -> str:
    """What to call layers that are computed at once: the first one, and all of their sizes, on which their time depends."""
    shapes = [list(arguments(layer)["weight"].meta["val"].shape) for layer in layers]
    return f"{layers[0].target}: {' + '.join(map(str, shapes))}"


def channels_axis(layer: fx.Node) -> int:
    """The dimension of a layer's outputs in its result."""
    return len(layer.meta["val"].shape) - len(arguments(layer)["weight"].meta["val"].shape) + 1


def rows(layers: Sequence[fx.Node]) -> Iterator[tuple[int, int]]:
    """Where the outputs of each layer begin and end behind those of the layers before it."""
    first = 0
    for layer in layers:
        count = int(arguments(layer)["weight"].meta["val"].shape[0])
        yield first, first + count
        first += count


def joined(edit: Edit, layers: Sequence[fx.Node]) -> fx.Node:
    """One layer with all rows, at the place of the first one; where a bias is missing it is zeros."""
    first, named = layers[0], [arguments(layer) for layer in layers]
    weight = torch.cat([edit.tensor(each["weight"]).detach() for each in named])
    with edit.graph.inserting_before(first):
        operands = [edit.add_tensor(f"{named[0]['weight'].target}.joined", weight), None]
        if any(each["bias"] is not None for each in named):
            operands[1] = edit.add_tensor(f"{first.name}.joined.bias", torch.cat([_bias(edit, each) for each in named]))
        return edit.call(first.target, source(first), *operands, *list(named[0].values())[3:], like=first, name=f"{first.name}_joined")  # type: ignore[arg-type]


def _bias(edit: Edit, named: dict[str, Any]) -> Tensor:
    if named["bias"] is not None:
        return edit.tensor(named["bias"]).detach()
    weight = edit.tensor(named["weight"])
    return torch.zeros(len(weight), dtype=weight.dtype if weight.is_floating_point() else torch.int32, device=weight.device)


def take_apart(edit: Edit, whole: fx.Node, layers: Sequence[fx.Node], values: Sequence[fx.Node], axis: int) -> None:
    """Every value becomes the slice of `whole` with the rows of its layer; `whole` stands in front of all of them."""
    for (start, end), value in reversed(list(zip(rows(layers), values, strict=True))):
        with edit.graph.inserting_after(whole):
            part = edit.call(_slice, whole, axis, start, end, like=value, name=f"{value.name}_part")
        edit.replace(value, part)
