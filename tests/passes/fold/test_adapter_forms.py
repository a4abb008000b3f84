"""One form of adapter after the other in a graph ==> the layer alone, and what the layer then says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from float_programs import BATCHES, applied, captured, operators, sample
from fxpress_passes import Context, FoldAdapters
from fxpress_passes.fold.certificate import Certificate
from layered import Module, drawn, layer_of
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm


def _pruned() -> Tensor:
    return drawn(12, 8).where(drawn(12, 8, seed=5) > 0, 0.0)


def _hydra(m: Any, x: Tensor) -> Tensor:
    y = m.w(x)
    return torch.tanh(y + 0.7 * m.bp(m.ap(x)) + 0.3 * m.bs(m.a_s(y)))


def _bat(m: Any, x: Tensor) -> Tensor:
    blocks = m.w.reshape(3, 4, 2, 4).permute(2, 0, 1, 3)
    return torch.tanh(functional.linear(x, m.w + (blocks @ m.b + m.b).permute(1, 2, 0, 3).reshape(12, 8)))


def _l4q(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(functional.linear(x, 0.1 * torch.clamp(torch.round((m.w + 2 * m.b @ m.a) / 0.1), -8, 7)))


LINEAR = ["aten.linear", "aten.tanh"]
FORMS: dict[str, tuple[Callable[[], nn.Module], Sequence[int], list[str]]] = {
    "hydra: beside it and behind it, four biases": (
        lambda: Module(_hydra, w=layer_of(8, 12), ap=layer_of(8, 3), bp=layer_of(3, 12), a_s=layer_of(12, 3), bs=layer_of(3, 12)),
        (1, 5, 8),
        LINEAR,
    ),
    "kronecker product, factor by factor": (
        lambda: Module(
            lambda m, x: (m.w(x) + 2 * (m.a @ (x.reshape(-1, 5, 2, 4) @ m.b.T)).flatten(-2)).tanh(),
            w=layer_of(8, 12),
            a=drawn(3, 2),
            b=drawn(4, 4),
        ),
        (1, 5, 8),
        LINEAR,
    ),
    "scale and shift of a norm and of a layer": (
        lambda: Module(
            lambda m, x: torch.tanh(m.w(torch.tanh(m.n(x) * m.g + m.b)) * m.h + m.c),
            **{"n": nn.LayerNorm(8), "g": drawn(8), "b": drawn(8), "w": layer_of(8, 12), "h": drawn(12), "c": drawn(12)},
        ),
        (1, 5, 8),
        ["aten.layer_norm", "aten.tanh", *LINEAR],
    ),
    "scale and shift of a convolution, and of its batch norm": (
        lambda: Module(
            lambda m, x: torch.relu(m.n(m.c(x) * m.g + m.b) * m.g),
            c=nn.Conv2d(3, 6, 3),
            n=nn.BatchNorm2d(6),
            g=drawn(1, 6, 1, 1),
            b=drawn(6, 1, 1),
        ),
        (1, 3, 8, 8),
        ["aten.conv2d", "aten.batch_norm", "aten.relu"],
    ),
    "scale of a norm that takes no shift": (
        lambda: Module(lambda m, x: torch.tanh(functional.rms_norm(x, (8,), m.w) * m.g + m.b), w=drawn(8), g=drawn(8), b=drawn(8)),
        (1, 5, 8),
        ["aten.rms_norm", "aten.add.Tensor", "aten.tanh"],
    ),
    "scale of what a block adds (DiffFit)": (
        lambda: Module(lambda m, x: torch.tanh(x + m.g * m.v(torch.relu(m.w(x)))), w=layer_of(8, 12), v=layer_of(12, 8), g=drawn(8)),
        (1, 5, 8),
        ["aten.linear", "aten.relu", "aten.linear", "aten.add.Tensor", "aten.tanh"],
    ),
    "relu adapter: more neurons of the same function": (
        lambda: Module(
            lambda m, x: m.w2(torch.relu(m.w1(x))) + x + 4 * m.u(torch.relu(m.d(x))),
            w1=layer_of(8, 16),
            w2=layer_of(16, 8),
            d=layer_of(8, 3),
            u=layer_of(3, 8),
        ),
        (1, 5, 8),
        ["aten.linear", "aten.relu", "aten.linear", "aten.add.Tensor"],
    ),
    "behind the residual": (
        lambda: Module(
            lambda m, x: (lambda r: torch.tanh(m.w(r) + x + m.b(m.a(r))))(torch.relu(x)),
            w=layer_of(8, 8),
            a=layer_of(8, 2),
            b=layer_of(2, 8),
        ),
        (1, 5, 8),
        ["aten.relu", "aten.linear", "aten.add.Tensor", "aten.tanh"],
    ),
    "in front of two layers": (
        lambda: Module(
            lambda m, x: (lambda t: torch.tanh(torch.cat([m.q(t), m.k(t)], -1)))(x + m.b(m.a(x.transpose(1, 2))).transpose(1, 2)),
            **{"q": layer_of(8, 12), "k": layer_of(8, 12, seed=3), "a": nn.Conv1d(8, 2, 1), "b": nn.Conv1d(2, 8, 1)},
        ),
        (1, 5, 8),
        ["aten.linear", "aten.linear", "aten.cat", "aten.tanh"],
    ),
    "1x1 in a 3x3 of groups": (
        lambda: Module(lambda m, x: torch.relu(m.c(x) + m.p(x)), c=nn.Conv2d(6, 6, 3, padding=1, groups=3), p=nn.Conv2d(6, 6, 1, groups=3)),
        (1, 6, 8, 8),
        ["aten.conv2d", "aten.relu"],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_folds(name: str) -> None:
    make, shape, expected = FORMS[name]
    context = Context()
    folded = applied(FoldAdapters(), captured(make(), *shape), context)
    assert operators(folded) == expected
    assert context.refusals == []


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "bat: its own blocks times blocks": lambda: Module(_bat, w=drawn(12, 8), b=drawn(3, 4, 4)),
    "l4q: quantised after adding": lambda: Module(_l4q, w=drawn(12, 8), a=drawn(3, 8), b=drawn(12, 3)),
    "perp: where the weight is": lambda: Module(
        lambda m, x: torch.tanh(functional.linear(x, m.w + 2 * (m.b @ m.a) * (m.w != 0))), w=_pruned(), a=drawn(3, 8), b=drawn(12, 3)
    ),
    "weight norm": lambda: Module(lambda m, x: torch.tanh(m.w(x)), w=weight_norm(layer_of(8, 12))),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_the_graph_computes_becomes_one_bit_for_bit(name: str) -> None:
    program = captured(COMPUTED[name](), 1, 5, 8)
    folded = applied(FoldAdapters(), program)
    assert operators(folded) == LINEAR
    for batch in BATCHES:
        inputs = sample(program, batch)
        assert torch.equal(program.run(*inputs)[0], folded.run(*inputs)[0])
    if name.startswith("perp"):
        assert any(torch.equal(tensor == 0, _pruned() == 0) for tensor in folded.tensors.values() if tensor.dim() == 2)
    if name.startswith("l4q"):
        (weight,) = (tensor for tensor in folded.tensors.values() if tensor.dim() == 2)
        assert len(weight.unique()) <= 16


def test_folding_after_rounding_is_not_rounding_after_folding() -> None:
    """What a quantised base with an adapter beside it becomes: the fold is no multiple of the steps any more."""

    def body(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(functional.linear(x, 0.1 * torch.clamp(torch.round(m.w / 0.1), -8, 7)) + 2 * x @ m.a.T @ m.b.T)

    folded = applied(FoldAdapters(), captured(Module(body, w=drawn(12, 8), a=drawn(3, 8), b=drawn(12, 3)), 1, 5, 8))
    (weight,) = (tensor for tensor in folded.tensors.values() if tensor.dim() == 2)
    assert len(weight.unique()) > 16


def test_a_fold_onto_zeros_says_how_many_it_costs() -> None:
    module = Module(lambda m, x: torch.tanh(functional.linear(x, m.w) + 2 * x @ m.a.T @ m.b.T), w=_pruned(), a=drawn(3, 8), b=drawn(12, 3))
    context = Context()
    applied(FoldAdapters(), captured(module, 1, 5, 8), context)
    (certificate,) = context.notes
    assert isinstance(certificate, Certificate)
    assert certificate.zeros == (int((_pruned() == 0).sum()), 0)
    assert f"{certificate.zeros[0]} of its {certificate.zeros[0]} zeros are lost" in str(certificate)


def test_a_weight_of_two_layers_is_copied_for_the_one_that_is_adapted() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(m.w(torch.tanh(m.w(x) + m.b(m.a(x)))))

    program, context = captured(Module(body, w=layer_of(8, 8), a=layer_of(8, 3), b=layer_of(3, 8)), 1, 5, 8), Context()
    folded = applied(FoldAdapters(), program, context)
    assert "w.weight is read by other layers too: copied, 256 bytes more" in context.notes
    assert operators(folded) == [*LINEAR, *LINEAR]
    assert torch.equal(folded.tensors["w.weight"], drawn(8, 8)), "the other layer keeps its own"
    assert not torch.equal(folded.tensors["w.folded.weight"], drawn(8, 8))
