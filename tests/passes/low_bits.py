"""Small networks with every kind of layer, quantised to few bits: what passes that choose integers are tried on."""

from __future__ import annotations

from functools import lru_cache

import torch
from float_programs import Chain, captured, measured
from fxpress_ir import Program
from fxpress_ir.ops import arguments, quantize_channels
from fxpress_passes import Context, PlaceQuantizers
from torch import Tensor, fx, nn

_channels = torch.ops.fxp.fake_quantize_channels.default


@lru_cache
def every_kind() -> Program:
    """Convolutions, one of them in groups, one depthwise, a transposed one in groups, and linear layers, without a dead output."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (
            *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding="same", groups=8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32, 12), nn.GELU(), nn.Linear(12, 5)),
        )
        for layer in layers:
            for parameter in layer.parameters():
                parameter.data *= 2 if parameter.dim() > 1 else 0.5  # values that are about as large at the end as at the beginning
        return captured(Chain(*layers), 1, 3, 6, 6)


def data(program: Program) -> Context:
    """More samples than any layer of these networks has inputs."""
    return measured(program, batches=4, batch=32)


@lru_cache
def simulated(program: Program, bits: int = 3) -> Program:
    """With quantisers by evidence like `data`, all layers' weights in so many bits."""
    return PlaceQuantizers(weight_bits=bits, edge_bits=bits).apply(program, data(program))


def quantizers(program: Program) -> list[fx.Node]:
    """Those of weights, in order."""
    return list(program.graph.find_nodes(op="call_function", target=_channels))


def codes(program: Program) -> dict[str, Tensor]:
    """The integers of each weight, by its quantiser's name; each lies within its bits."""
    found = {}
    for node in quantizers(program):
        named = arguments(node)
        weight, scale = (program.tensors[str(named[part].target)].detach() for part in ("x", "scale"))
        found[node.name] = quantize_channels(weight, scale, named["axis"], named["qmin"], named["qmax"])
    return found
