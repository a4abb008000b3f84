"""Float programs for the tests of passes, and the one way in which a pass is held to its promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from fxpress_ir import Program, capture, text, verify
from fxpress_passes import Context, Pass
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from torch import Tensor, fx, nn
from torch.nn import functional

BATCHES = (1, 3)
"""Batch sizes that every result is run at; programs are captured at another one, 2."""


class Function(nn.Module):
    """A module without state that computes `body`."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Chain(nn.Sequential):
    """Modules in a row, whose input is named x."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = module(x)
        return x


def captured(body: nn.Module | Callable[[Tensor], Tensor], *shape: int, dtype: torch.dtype = torch.float32) -> Program:
    """`body` in evaluation mode as a program with one input of `shape`, dimension 0 dynamic and named batch."""
    model = body if isinstance(body, nn.Module) else Function(body)
    return capture(model.eval(), (torch.zeros(shape, dtype=dtype),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def sample(program: Program, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs, every named dimension `batch`: normal, or -100 to 99 where integers are taken."""
    generator = torch.Generator().manual_seed(seed)

    def draw(zeros: Tensor) -> Tensor:
        if zeros.is_floating_point():
            return torch.randn(zeros.shape, generator=generator, dtype=zeros.dtype)
        return torch.randint(-100, 100, zeros.shape, generator=generator, dtype=zeros.dtype)

    return tuple(map(draw, program.example(**dict.fromkeys(program.symbols().values(), batch))))


def measured(program: Program, batches: int = 4, batch: int = 8) -> Context:
    """A context with calibration data like `sample`."""
    return Context(Evidence(Calibration([sample(program, batch, seed) for seed in range(batches)])))


def operators(program: Program) -> list[str]:
    """The operators in order, ``aten.relu`` for ``aten.relu.default``."""
    return [str(node.target).removesuffix(".default") for node in program.graph.nodes if node.op == "call_function"]


def refusals(context: Context) -> list[str]:
    return [str(refused) for refused in context.refusals]


@contextmanager
def untouched(program: Program) -> Iterator[None]:
    """The program and the bits of its tensors are the same at the end."""
    printed, identity = text(program), program.hash
    tensors = {name: tensor.detach().clone() for name, tensor in program.tensors.items()}
    yield
    assert (text(program), program.hash) == (printed, identity)
    assert all(torch.equal(program.tensors[name], tensor) for name, tensor in tensors.items())


def applied(item: Pass, program: Program, context: Context | None = None) -> Program:
    """The result of a pass that has to fire, held to its promise at every batch size; `program` stays as it was."""
    with untouched(program):
        result = item.apply(program, context or Context())
    assert result is not program
    verify(result)
    assert result.inputs == program.inputs
    for batch in BATCHES:
        inputs = sample(program, batch, seed=100)
        found = difference(program.run(*inputs), result.run(*inputs))
        assert item.promise.held(found), f"{item} promises {item.promise}, found {found} at batch {batch}"
    return result


class ResidualNet(nn.Module):
    """conv-bn-relu, max-pool, dropout, a residual block, average, linear with a computed weight, and a dead branch.

    Every pass has something to do here. Norm statistics are those of data, with gains and shifts of a trained net.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.left, self.left_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.right, self.right_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.head = nn.Parameter(torch.randn(5, 8) / 4)
            self.dropout = nn.Dropout(0.5)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0.0, 0.3)
                    module.momentum = None
            with torch.no_grad():
                for _ in range(4):
                    self.features(torch.randn(32, 3, 8, 8))
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        """[batch, 8, 4, 4] of images."""
        y = functional.max_pool2d(functional.relu(self.stem_norm(self.stem(x))), 2)
        y = self.dropout(y)
        z = functional.relu(self.left_norm(self.left(y)))
        return functional.relu(self.right_norm(self.right(z)) + y)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return functional.linear(functional.adaptive_avg_pool2d(y, 1).flatten(1), self.head * 0.5)


class SequenceNet(ResidualNet):
    """The residual net whose pixels are then tokens: a size-only sum, a roll, a root-mean-square norm, addmm, attention, a 1-d average.

    Positions index what is there, keys follow an empty cache, and a fill hides some besides those that numbers hide. One channel of the
    hidden layer is far wider than the others, which lie between two of its steps.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        generator = torch.Generator().manual_seed(seed)
        self.gain = nn.Parameter(torch.rand(8, generator=generator) + 0.5)
        self.projection = nn.Parameter(torch.randn(8, 8, generator=generator) / 3)
        self.offset = nn.Parameter(torch.randn(8, generator=generator) / 3)
        self.positions: Tensor
        scores = torch.randn(1, 2, 16, 16, generator=generator)
        self.register_buffer("positions", scores.where(torch.rand(16, 16, generator=generator).fill_diagonal_(1) > 0.2, -100.0))
        self.hidden: Tensor
        self.register_buffer("hidden", torch.rand(16, 16, generator=generator).fill_diagonal_(1) < 0.1)
        generator = torch.Generator().manual_seed(seed + 1)
        wide = torch.ones(16)
        wide[0] = 20
        self.up = nn.Parameter(torch.randn(16, 8, generator=generator) / 20)
        self.up.data[0] = self.up.data[0].abs() * 60
        self.shift = nn.Parameter(torch.full((16,), -0.75))
        self.down = nn.Parameter(torch.randn(8, 16, generator=generator).abs() / 20 / wide)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.features(x).flatten(2).transpose(1, 2)
        tokens = (tokens + torch.ones(x.shape[0], 1, 8) * 0.25).roll(3, 1)
        tokens = tokens[torch.arange(x.shape[0])[:, None], torch.arange(16)]
        unit = self.gain * (tokens * torch.rsqrt(tokens.pow(2).mean(-1, keepdim=True) + 1e-6))
        mixed = torch.addmm(self.offset, unit.reshape(-1, 8), self.projection).reshape(-1, 16, 8)
        heads = mixed.unflatten(-1, (2, 4)).transpose(1, 2)
        keys = torch.cat([torch.zeros(0), heads], 2)
        y = functional.scaled_dot_product_attention(
            heads, keys, heads, attn_mask=self.positions + torch.zeros(16).masked_fill(self.hidden, -1e9)
        )
        tokens = tokens + y.transpose(1, 2).flatten(2)
        tokens = tokens + functional.linear(functional.gelu(functional.linear(tokens, self.up, self.shift)), self.down)
        pooled = functional.adaptive_avg_pool1d(tokens.transpose(1, 2), 1)
        return functional.linear(pooled.flatten(1), self.head * 0.5)


def with_dead_branch(program: Program) -> Program:
    """`program` with an operator that nothing reads and a tensor that no node names, as no `Edit` would leave them."""
    graph, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    returned = graph.graph_copy(program.graph, nodes)
    dead = graph.call_function(torch.ops.aten.sigmoid.default, (nodes[program.outputs()[0]],))
    dead.meta["val"] = program.outputs()[0].meta["val"]
    graph.output(returned)
    return Program(graph, {**program.tensors, "unnamed": torch.ones(3)}, program.inputs, program.stage)


@lru_cache
def residual_program() -> Program:
    """`ResidualNet` captured for [batch, 3, 8, 8], with a dead branch."""
    return with_dead_branch(captured(ResidualNet(), 1, 3, 8, 8))


@lru_cache
def sequence_program() -> Program:
    """`SequenceNet` captured for [batch, 3, 8, 8], with a dead branch: every pass has something to do."""
    return with_dead_branch(captured(SequenceNet(), 1, 3, 8, 8))
