"""Residual streams: who writes and who reads them, and what makes a value none that one matrix may multiply."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from decoders import Block, classifier, decoder, prepared
from float_programs import captured
from fxpress_ir import Program
from fxpress_passes.equalize.residual import Residual, residuals
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, fx, nn
from torch.nn import functional


def _only(program: Program) -> Residual:
    (found,) = residuals(program)
    assert isinstance(found, Residual), found
    return found


def _weights(program: Program, layers: tuple[fx.Node, ...]) -> list[str]:
    return sorted(str(layer.args[1].target).removesuffix(".weight") for layer in layers)  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
def test_a_pre_norm_decoder_has_one(norm: type[nn.Module]) -> None:
    program = prepared(decoder, norm)
    found = _only(program)
    assert found.width == 32
    assert found.centred == (norm is nn.LayerNorm)
    assert _weights(program, found.writers) == ["down", "mix", "start"]
    assert _weights(program, tuple(layer for layer, _ in found.readers)) == ["head", "key", "query", "up", "value"]
    assert len(found.norms) == 3
    assert not found.tables
    assert not found.constants


def test_a_class_token_and_positions_belong_to_it() -> None:
    program = prepared(classifier)
    found = _only(program)
    assert sorted(str(held.target) for _, held in found.constants) == ["positions", "token"]
    assert _weights(program, tuple(layer for layer, norm in found.readers if norm is not None))[1:2] == ["key"]


class Tokens(nn.Module):
    """An embedding, tied to the head; or patches of an image."""

    def __init__(self, images: bool) -> None:
        super().__init__()
        self.images, self.norm = images, nn.RMSNorm(8)
        self.patches, self.embedding, self.inner = nn.Conv2d(3, 8, 2, 2), nn.Embedding(200, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2) if self.images else self.embedding(x)
        y = y + self.inner(y)
        return functional.linear(self.norm(y).mean(1) if self.images else self.norm(y), self.embedding.weight)


def test_tables_write_to_it_and_layers_may_read_it_bare() -> None:
    found = _only(captured(Tokens(False), 2, 5, dtype=torch.int64))
    assert [str(table.args[0]) for table in found.tables] == ["embedding_weight"]
    assert [norm for _, norm in found.readers].count(None) == 1


def test_patches_write_to_it() -> None:
    model = Tokens(True)
    model.forward = lambda x: model.norm(model.patches(x).flatten(2).transpose(1, 2)) @ torch.ones(8, 4)  # type: ignore[method-assign]
    program = Pipeline.parse("fold-constants, compose-linear").run(captured(model, 2, 3, 8, 8)).program
    found = _only(program)
    assert [node.target for node in found.writers] == [torch.ops.aten.conv2d.default]


REFUSED: dict[str, tuple[Callable[[Block, Tensor], Tensor], str]] = {
    "input": (lambda m, x: m.head(m.norm1(x)), "it comes from an input, which takes no matrix"),
    "function": (lambda m, x: m.head(m.norm1(m.start(x).relu())), "it comes from aten.relu.default, which takes no matrix"),
    "output": (lambda m, x: torch.cat([y := m.start(x), m.norm1(y)], -1), "aten.cat.default reads it, which would see another value"),
    "normalised": (lambda m, x: m.norm1(m.start(x)), "it leaves the program"),
    "post-norm": (
        lambda m, x: m.head(m.norm2(m.start(x) + m.norm1(m.start(x)))),
        "aten.add.Tensor reads it, which would see another value",
    ),
    "broadcast": (lambda m, x: m.head(m.norm1(m.start(x) + x.mean(-1, True))), "a value of other channels is added to it"),
    "number": (lambda m, x: m.head(m.norm1(m.start(x) + 1.0)), "it comes from aten.add.Tensor, which takes no matrix"),
    "shuffled": (
        lambda m, x: m.head(m.norm1(m.start(x).unflatten(-1, (4, 8)).transpose(-1, -2).flatten(-2))),
        "it comes from aten.flatten.using_ints, which takes no matrix",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_none(name: str) -> None:
    body, reason = REFUSED[name]
    found = list(residuals(prepared(body)))
    assert all(not isinstance(stream, Residual) for stream in found)
    assert any(stream[1] == reason for stream in found if not isinstance(stream, Residual)), found


def test_a_layer_that_sees_the_mean_beside_a_layer_norm() -> None:
    (found,) = residuals(prepared(lambda m, x: m.head(m.norm1(y := m.start(x))) + m.head(y), nn.LayerNorm))
    assert not isinstance(found, Residual)
    assert found[1] == "it reads the mean of the channels, which LayerNorms beside it do not"


def test_both_kinds_of_norm() -> None:
    (found,) = residuals(prepared(lambda m, x: m.head(m.norm1(y := m.start(x))) + m.head(functional.layer_norm(y, [32]))))
    assert not isinstance(found, Residual)
    assert found[1] == "its input is read by LayerNorms and RMSNorms"


def test_an_odd_width() -> None:
    (found,) = residuals(captured(nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 2)), 2, 5))
    assert not isinstance(found, Residual)
    assert found[1] == "it normalises over [5], which no Hadamard matrix multiplies"
