"""A small trained-looking network with everything that can be chosen: convolutions, two alike residual blocks, a linear layer."""

from __future__ import annotations

from functools import cache

import fxpress as fx
import torch
from fxpress.joint import Space, prepared
from fxpress.joint.costs import OTHERS, Taken
from fxpress.model_source import Source
from fxpress_ir import Program
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.quantize.layer_choices import layers_of
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, 2 * width, 3, padding=1), nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + 0.3 * self.second(functional.relu(self.first(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16), Block(16), Block(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.norm(self.stem(x))))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


def make() -> tuple[Net, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        net.head.weight.mul_(4)
    return net, (torch.randn(1, 3, 8, 8),)


def batches() -> list[tuple[Tensor, ...]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 3, 8, 8, generator=draw),) for _ in range(3)]


def source() -> Source:
    net, inputs = make()
    wanted = net(batches()[2][0]).argmax(1)

    def evaluate(run: object) -> float:
        (x,) = batches()[2]
        return float((torch.as_tensor(run(x)[0]).argmax(1) == wanted).double().mean())  # type: ignore[operator]

    return Source("net", net, inputs, {"x": {0: fx.Dim("batch")}}, batches(), evaluate, scores=True)


@cache
def original() -> Program:
    return prepared(source().capture(), Calibration(batches()))


def context() -> Context:
    return Context(Evidence(Calibration(batches())))


@cache
def space(*families: str) -> Space:
    return Space.of(original(), context(), families or ("bits", "ranks", "channels", "blocks"), bits=("w8", "w4"), align=4)


def counted(own: Space) -> object:
    """A target on which a weight takes its bits and a layer a nanosecond for each multiply-accumulate."""

    def measure(programs: dict[str, tuple[Program, dict[str, str]]]) -> dict[str, Taken]:
        return {label: taken(own, cut, bits) for label, (cut, bits) in programs.items()}

    return measure


def taken(own: Space, cut: Program, bits: dict[str, str]) -> Taken:
    units, seconds, size = own.units_in(cut), {OTHERS: 1e-6}, 1000.0
    for layer in layers_of(cut):
        name = layer.names[0]
        seconds[units[name]] = seconds.get(units[name], 0.0) + layer.macs * 1e-9
        size += layer.elements * int(bits[name][1]) / 8
    return Taken(round(size), seconds)
