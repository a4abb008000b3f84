"""program ==> what each layer's weight lost: to its quantiser, to passes before it that lose weights, or since another program."""

from __future__ import annotations

from collections.abc import Sequence
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
    """A layer of the program, and float64 in its weight's shape:

    Attributes:
        weight: before the loss, W.
        error: what it lost in all, W - W_c.
        pruned: the part of it that was lost before the quantiser, which no bias has taken up; None for nothing.
    """

    node: fx.Node
    weight: Tensor
    error: Tensor
    pruned: Tensor | None = None


def lost_on_the_way(program: Program, context: Context) -> list[Lost]:
    """Of a simulated program, all layers with a quantised weight; of a float one, those that passes before took weights from."""
    found = []
    for node in _layers(program, context):
        name = _weight(node)
        if name is None:
            continue
        now = program.tensors[name].detach()
        whole = _before(name, now, context.losses)
        rounded = _rounded(program, node, now)
        if rounded is not now or (whole is not now and program.stage == "float"):
            pruned = None if whole is now else whole.double() - now.double()
            found.append(Lost(node, whole.double(), whole.double() - rounded.double(), pruned))
    return found


def _before(name: str, now: Tensor, losses: Sequence[tuple[Program, Program]]) -> Tensor:
    """The weight as it came into the passes that lose weights; `now` itself where it was changed in another way since.

    What a pass learns for a simulated program is no loss to make up for: the biases have taken up its mean error.
    """
    for before, after in reversed(losses):
        if before.stage == "float" and name in before.tensors and name in after.tensors and torch.equal(after.tensors[name], now):
            whole = before.tensors[name].detach()
            now = now if torch.equal(whole, now) else whole
    return now


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


def _weight(node: fx.Node) -> str | None:
    """The tensor that is a layer's weight, quantised or not; None where the weight is computed."""
    weight: fx.Node = arguments(node)["weight"]
    if weight.target is _fxp.fake_quantize_channels.default:
        weight = arguments(weight)["x"]
    return str(weight.target) if weight.op == "get_attr" else None


def _rounded(program: Program, node: fx.Node, weight: Tensor) -> Tensor:
    """The weight as the layer gets it; `weight` itself where it has no quantiser."""
    quantizer: fx.Node = arguments(node)["weight"]
    if quantizer.target is not _fxp.fake_quantize_channels.default:
        return weight
    named = arguments(quantizer)
    scale = program.tensors[str(named["scale"].target)]
    rounded: Tensor = _fxp.fake_quantize_channels(weight, scale, named["axis"], named["qmin"], named["qmax"])
    return rounded
