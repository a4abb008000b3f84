"""Layers are tied by a weight, an input or a join that they share, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_ir import capture
from fxpress_ir.analysis.precision_ties import PrecisionTie, precision_ties
from torch import Tensor, nn

F = nn.functional


class Model(nn.Module):
    """Three convolutions of one size, two linear layers, a normalisation; what is done with them is given."""

    def __init__(self, body: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.bn, self.norm = nn.BatchNorm2d(4), nn.LayerNorm(6)
        self.fc, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def ties(body: Callable[[Model, Tensor], Tensor]) -> set[tuple[str, tuple[str, ...]]]:
    """Kinds and the layers' own names."""
    graph = capture(Model(body).eval(), (torch.zeros(2, 4, 6, 6),)).graph
    names = {node.name: str(node.args[1]).removesuffix("_weight") for node in graph.nodes if len(node.args) > 1}
    return {(tie.kind, tuple(names[layer] for layer in tie.layers)) for tie in precision_ties(graph)}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda m, x: m.b(x) * m.a(x), {("input", ("b", "a"))}),
        (lambda m, x: m.b(F.max_pool2d(x, 2)) * m.a(x[:, :, :3, :3]), {("input", ("b", "a"))}),
        (lambda m, x: m.fc(x) * m.other(x.transpose(1, 2).contiguous()).transpose(1, 2), {("input", ("fc", "other"))}),
        (lambda m, x: m.a(F.relu(m.a(x))), {("weight", ("a", "a"))}),
        (lambda m, x: m.a(x) + m.b(F.relu(x)), {("join", ("a", "b"))}),
        (lambda m, x: torch.cat([m.a(x), F.relu(m.b(F.relu(x)))], 1), {("join", ("a", "b"))}),
        (lambda m, x: F.relu(m.bn(m.a(x)) * 2.0) - m.b(F.relu(x)), {("join", ("a", "b"))}),
    ],
    ids=["input", "pooled and sliced input", "moved input", "weight", "sum", "concatenation", "sum behind elementwise operators"],
)
def test_what_is_shared_ties(body: Callable[[Model, Tensor], Tensor], expected: set[tuple[str, tuple[str, ...]]]) -> None:
    assert ties(body) == expected


def test_a_residual_stream_is_one_tie() -> None:
    def body(m: Model, x: Tensor) -> Tensor:
        x = F.relu(m.a(x))
        x = F.relu(x + m.b(x))
        return x + m.c(x)

    assert ties(body) == {("join", ("a", "b", "c"))}


def test_a_join_that_two_others_read_makes_one_tie_of_both() -> None:
    def body(m: Model, x: Tensor) -> Tensor:
        both = m.a(x) + x
        return torch.cat([both + m.b(F.tanh(x)), both - m.c(F.sigmoid(x))], 1)

    assert ties(body) == {("join", ("a", "b", "c"))}


def test_a_tie_names_what_is_shared() -> None:
    graph = capture(Model(lambda m, x: m.a(x) + m.b(x) + m.a(F.relu(x))).eval(), (torch.zeros(2, 4, 6, 6),)).graph
    assert precision_ties(graph) == (
        PrecisionTie("weight", "a.weight", ("conv2d", "conv2d_2")),
        PrecisionTie("input", "x", ("conv2d", "conv2d_1")),
        PrecisionTie("join", "add_1", ("conv2d", "conv2d_1", "conv2d_2")),
    )


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.b(F.relu(m.a(x))),
        lambda m, x: m.a(x) * m.b(F.relu(x)),
        lambda m, x: m.norm(m.a(x)) + m.fc(F.relu(x)),
        lambda m, x: m.a(x) + 1.0,
        lambda m, x: m.a(x) + x,
        lambda m, x: torch.softmax(m.a(x), 1) + m.b(F.relu(x)),
    ],
    ids=["a chain", "a product", "behind a normalisation", "a constant", "no layer's", "behind a softmax"],
)
def test_what_is_not_shared_does_not_tie(body: Callable[[Model, Tensor], Tensor]) -> None:
    assert ties(body) == set()
