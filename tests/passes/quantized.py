"""Float programs taken to simulated and to integer ones, and the values on their edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from float_programs import captured, measured
from fxpress_ir import Program, verify
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from torch import Tensor, fx, nn
from torch.nn import functional

_fxp = torch.ops.fxp
_MAKES_INTEGERS = (_fxp.quantize.default, _fxp.requantize.default, _fxp.add.default)


class TwoPaths(nn.Module):
    """A convolution that is read before and after its ReLU, a residual add, both pools and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.stem, self.twice = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
            self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.max_pool2d(functional.relu(self.stem(x)), 2)
        z = self.twice(y)
        z = functional.relu(z) + z
        y = functional.relu(self.right(functional.relu(self.left(z))) + y)
        result: Tensor = self.head(functional.adaptive_avg_pool2d(y, 2).flatten(1))
        return result


class LayerTwice(nn.Module):
    """One linear layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(functional.relu(self.layer(x)))
        return result


@lru_cache
def two_paths() -> Program:
    return captured(TwoPaths(), 1, 3, 8, 8)


@dataclass(frozen=True)
class Stages:
    """One network at the three stages."""

    float: Program
    simulated: Program
    integer: Program


def quantized(program: Program, context: Context | None = None, weight_bits: int = 8) -> Stages:
    """Place quantisers by evidence like `measured`, then make integers; both results verify."""
    simulated = PlaceQuantizers(weight_bits).apply(program, context or measured(program))
    verify(simulated)
    integer = ToInteger().apply(simulated, Context())
    verify(integer)
    return Stages(program, simulated, integer)


class _Record(fx.Interpreter):
    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Tensor:
        result: Tensor = super().run_node(n)
        self.values[n.name] = result
        return result


def values(program: Program, *inputs: Tensor) -> dict[str, Tensor]:
    """The value of every node in one run."""
    record = _Record(program)
    with torch.no_grad():
        record.run(*program.check_inputs(inputs))
    return record.values


@dataclass(frozen=True)
class Edge:
    """A quantised value at both stages: float multiples of `scale`, and integers."""

    site: str
    scale: float
    simulated: Tensor
    integer: Tensor

    @property
    def steps(self) -> Tensor:
        """How many steps the two lie apart."""
        return (self.simulated.double() / self.scale).round() - self.integer.double()


def edges(stages: Stages, *inputs: Tensor) -> list[Edge]:
    """Every quantised edge, in order; each fake quantiser has become one operator that makes integers."""
    before, after = values(stages.simulated, *inputs), values(stages.integer, *inputs)
    fakes = [node for node in stages.simulated.graph.nodes if node.target is _fxp.fake_quantize.default]
    made = [node for node in stages.integer.graph.nodes if node.target in _MAKES_INTEGERS]
    found = []
    for fake, node in zip(fakes, made, strict=True):
        named = arguments(fake)
        found.append(Edge(named["x"].name, named["scale"], before[fake.name], after[node.name].reshape(before[fake.name].shape)))
    return found
