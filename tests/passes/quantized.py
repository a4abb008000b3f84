"""Float programs taken to simulated and to integer ones, and the values on their edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from exact import Exact
from float_programs import BATCHES, Chain, captured, measured, sample
from fxpress_ir import Program, verify
from fxpress_ir.ops import arguments
from fxpress_passes import Context, FoldBatchNorm, FoldConstants, PlaceQuantizers, RemoveNoops, ToInteger
from fxpress_passes.pipeline import Pipeline
from networks import network
from torch import Tensor, fx, nn
from torch.nn import functional

_fxp = torch.ops.fxp


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


def quantized(program: Program, context: Context | None = None, **options: Any) -> Stages:
    """Place quantisers by evidence like `measured`, then make integers; both results verify.

    `options` are those of `PlaceQuantizers`.
    """
    simulated = PlaceQuantizers(**options).apply(program, context or measured(program))
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


@lru_cache
def network_stages(name: str) -> Stages:
    """A network of `benchmarks/networks.py`, its norms folded, quantised on 4 batches of 8 images."""
    program = captured(network(name), 1, 3, 32, 32)
    folded = Pipeline([RemoveNoops(), FoldConstants(), FoldBatchNorm()]).run(program).program
    return replace(quantized(folded, integer_only=True), float=program)


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
    found = []
    for fake in stages.simulated.graph.find_nodes(op="call_function", target=_fxp.fake_quantize.default):
        named = arguments(fake)
        integer = after[_made(named["x"], stages.integer).name]
        found.append(Edge(named["x"].name, named["scale"], before[fake.name], integer.reshape(before[fake.name].shape)))
    return found


def _made(site: fx.Node, integer: Program) -> fx.Node:
    """What makes the integers of a site: a tensor, a border, or what is named after the site or what it bounds."""
    by_name = {node.name: node for node in integer.graph.nodes}
    if site.op == "get_attr":
        (constant,) = [node for node in by_name.values() if node.op == "get_attr" and str(node.target).startswith(f"{site.target}.")]
        return constant
    for name in (site.name, *(used.name for used in site.all_input_nodes)):
        if f"{name}_out" in by_name:
            return by_name[f"{name}_out"]
    (border,) = [node for node in by_name.values() if node.target is _fxp.quantize.default and str(node.args[0]) == site.name]
    return border


def wide(program: Program, batch: int) -> Tensor:
    """Inputs of up to twice the calibrated range, so that values saturate."""
    (x,) = sample(program, batch, seed=50)
    return 2 * x


def check_exact(stages: Stages) -> None:
    """Every integer on every edge is that of rational arithmetic, and outputs are those integers times their scales."""
    for batch in BATCHES:
        x = wide(stages.float, batch)
        exact = Exact(stages.simulated, x)
        found = edges(stages, x)
        assert [edge.site for edge in found] == list(exact.edges)
        for edge in found:
            assert np.array_equal(edge.integer.numpy(), exact.edges[edge.site]), f"{edge.site} at batch {batch}"
            assert len(np.unique(edge.integer.numpy())) > 1
        sites = {edge.site: edge for edge in found}
        for node, before, after in zip(stages.simulated.outputs(), stages.simulated.run(x), stages.integer.run(x), strict=True):
            site = sites.get(str(node.args[0]))
            assert after.shape == before.shape
            assert site is None or torch.equal(after, site.integer.float() * torch.tensor(site.scale, dtype=torch.float32))


def exactly(body: nn.Module | Callable[[Tensor], Tensor], *shape: int, **options: Any) -> Stages:
    """`body` quantised and held to rational arithmetic; [batch, 4, 6, 6] unless another shape is given."""
    made = Chain(body) if isinstance(body, nn.Module) else body
    stages = quantized(captured(made, *(shape or (1, 4, 6, 6))), **options)
    assert stages.integer.stage == "integer"
    check_exact(stages)
    return stages


def targets(program: Program) -> list[str]:
    """Names of the operators between the borders, in order, sizes and slices that take all left out."""
    program = RemoveNoops().apply(program, Context())
    names = [str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"]
    return [name for name in names if name not in ("quantize", "dequantize", "sym_size")]
