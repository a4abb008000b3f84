"""An edit, what became of a layer ==> the tensors behind its quantiser, scales and bias are others, its integers those learnt."""

from __future__ import annotations

from fxpress_ir import Edit
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .fit import Fitted
from .layers import Layer
from .walk import Decided


def store(edit: Edit, layer: Layer, fitted: Fitted) -> Decided:
    """Change the edit; gives the weight and the bias of each layer that the change reaches.

    The weight keeps its name where quantisers of this layer, and of those that share it, are all that read it.
    """
    readers = list(layer.readers())
    if fitted.weight is not None:
        _put(edit, layer.weight, fitted.weight, [edit.here(reader.quantizer) for reader in readers])
    if fitted.scales is not None:
        edit.tensors[layer.scale] = fitted.scales
    biases: dict[str, Tensor | None] = {}
    for reader in readers:
        biases[reader.name] = None if reader.bias is None else edit.tensors[reader.bias].detach()
    if fitted.bias is not None:
        _set_bias(edit, edit.here(layer.node), layer, fitted.bias)
        biases[layer.name] = fitted.bias
    weight = _multiplying(edit, layer)
    return {name: (weight, bias) for name, bias in biases.items()}


def _put(edit: Edit, name: str, value: Tensor, quantizers: list[fx.Node]) -> None:
    others = [user for node in edit.graph.find_nodes(op="get_attr", target=name) for user in node.users if user not in quantizers]
    if not others:
        edit.tensors[name] = value
        return
    with edit.graph.inserting_before(quantizers[0]):
        added = edit.add_tensor(f"{name}.reconstructed", value)
    for quantizer in quantizers:
        quantizer.args = (added, *quantizer.args[1:])


def _set_bias(edit: Edit, node: fx.Node, layer: Layer, bias: Tensor) -> None:
    if layer.bias is not None and sum(len(found.users) for found in edit.graph.find_nodes(op="get_attr", target=layer.bias)) == 1:
        edit.tensors[layer.bias] = bias
        return
    with edit.graph.inserting_before(node):
        added = edit.add_tensor(f"{layer.bias or f'{layer.name}.bias'}.reconstructed", bias)
    node.args = (*node.args[:2], added, *node.args[3:])
    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "bias"}


def _multiplying(edit: Edit, layer: Layer) -> Tensor:
    """The weight as the layer gets it from its quantiser."""
    named = arguments(edit.here(layer.quantizer))
    weight: Tensor = edit.here(layer.quantizer).target(  # type: ignore[operator]
        *(edit.tensor(value).detach() if isinstance(value, fx.Node) else value for value in named.values())
    )
    return weight
