"""program ==> what each layer's weight lost: by its quantiser, or since another program."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context
from ..evidence.second_moments import LAYERS
from .side_path import has_side_path

_fxp = torch.ops.fxp


@dataclass(frozen=True, eq=False)
class Lost:
    """A layer of the program, its weight before the loss, float64, and what the weight lost, W - W_c."""

    node: fx.Node
    weight: Tensor
    error: Tensor


def lost_by_quantizing(program: Program, context: Context) -> list[Lost]:
    """Of a simulated program, by the quantiser of each layer's weight."""
    found = []
    for node in _layers(program, context):
        quantizer = _quantized_weight(node)
        if quantizer is not None:
            named = arguments(quantizer)
            weight = program.tensors[str(named["x"].target)].detach()
            scale = program.tensors[str(named["scale"].target)]
            rounded = _fxp.fake_quantize_channels(weight, scale, named["axis"], named["qmin"], named["qmax"])
            found.append(Lost(node, weight.double(), weight.double() - rounded.double()))
    return found


def lost_since(reference: Program, program: Program, context: Context) -> list[Lost]:
    """Of a float program, since `reference`, which has the same nodes; layers whose weight is as it was are left out.

    Raises:
        PassError: it has others.
    """
    before = {node.name: node for node in reference.graph.nodes}
    if [(node.name, node.target) for node in reference.graph.nodes if node.op == "call_function"] != [
        (node.name, node.target) for node in program.graph.nodes if node.op == "call_function"
    ]:
        raise PassError("reference has other nodes", where="compensate", way_on="give the program right before its weights were changed")
    found = []
    for node in _layers(program, context):
        weight, old = arguments(node)["weight"], arguments(before[node.name])["weight"]
        if weight.op == "get_attr" and old.op == "get_attr":
            now, then = (source.tensors[str(named.target)].detach() for source, named in ((program, weight), (reference, old)))
            if now.shape == then.shape and not torch.equal(now, then):
                found.append(Lost(node, then.double(), then.double() - now.double()))
    return found


def _layers(program: Program, context: Context) -> list[fx.Node]:
    found = []
    for node in program.graph.nodes:
        if node.target not in LAYERS:
            continue
        if arguments(node).get("groups", 1) != 1:
            context.refuse(node, f"its weight is in {arguments(node)['groups']} groups, which share no directions")
        elif not has_side_path(program, node):
            found.append(node)
    return found


def _quantized_weight(node: fx.Node) -> fx.Node | None:
    """The quantiser of a layer's constant weight; None of a layer without one, and of other nodes."""
    if node.target not in LAYERS:
        return None
    weight: fx.Node = arguments(node)["weight"]
    is_one = weight.target is _fxp.fake_quantize_channels.default and arguments(weight)["x"].op == "get_attr"
    return weight if is_one else None
