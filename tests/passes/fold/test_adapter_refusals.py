"""What depends on the input in another way than a layer does stays in the graph, with the operator that does it as the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from float_programs import captured, refusals
from fxpress_passes import Context, FoldAdapters
from layered import Module, drawn, layer_of
from torch import Tensor, nn
from torch.nn import functional


def _parts(*names: str, inputs: int = 16, outputs: int = 24) -> dict[str, Any]:
    sizes = {"w": (inputs, outputs), "a": (inputs, 3), "b": (3, outputs), "r": (inputs, 2)}
    return {name: layer_of(*sizes[name]) for name in names}


def _bottleneck(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) + m.b(torch.relu(m.a(x))))


def _behind(m: Any, x: Tensor) -> Tensor:
    y = m.w(x)
    return torch.tanh(y + m.b(torch.relu(m.a(y))))


def _routed(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) + torch.softmax(m.r(x), -1)[..., :1] * m.b(m.a(x)))


def _top_one(m: Any, x: Tensor) -> Tensor:
    chosen = m.r(x).argmax(-1)
    return torch.tanh(m.w(x) + torch.einsum("bsro,bsr->bso", m.ups[chosen], m.a(x)))


def _by_instance(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) * (torch.softmax(m.r(x), -1) @ m.pool))


def _read_twice(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.w(x)
    return torch.tanh(y + m.b(m.a(x))), y


def _ladder(m: Any, x: Tensor) -> Tensor:
    first = torch.tanh(x)
    second = torch.relu(m.back(torch.relu(m.w(first))))
    side = torch.relu(m.s(torch.relu(m.a(first)) + m.c(second)))
    return second + m.d(side)


def _cancelling(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) + 1e9 * m.b(m.a(x)) - 1e9 * m.b(m.a(x) * 1.0001))


REFUSED: dict[str, tuple[Callable[[], nn.Module], Sequence[int], str]] = {
    "bottleneck": (
        lambda: Module(_bottleneck, **_parts("w", "a", "b")),
        (1, 5, 16),
        "add: what is added to linear is not linear in its input (relu); it stays beside the layer",
    ),
    "bottleneck behind it": (
        lambda: Module(_behind, **_parts("w", "b"), a=layer_of(24, 3)),
        (1, 5, 16),
        "add: what is added to linear is not linear in its input (relu); it stays beside the layer",
    ),
    "mixture": (
        lambda: Module(_routed, **_parts("w", "a", "b", "r")),
        (1, 5, 16),
        "add: what is added to linear is chosen by the input (softmax); it stays beside the layer",
    ),
    "router": (
        lambda: Module(_top_one, **_parts("w", "a", "r"), ups=drawn(2, 3, 24)),
        (1, 5, 16),
        "add: what is added to linear_1 is chosen by the input (argmax); it stays beside the layer",
    ),
    "scale of each instance": (
        lambda: Module(_by_instance, **_parts("w", "r"), pool=drawn(2, 24)),
        (1, 5, 16),
        "mul: the factor of linear depends on the input (softmax); it stays beside the layer",
    ),
    "side network": (
        lambda: Module(
            _ladder, w=layer_of(16, 24), back=layer_of(24, 16), a=layer_of(16, 3), c=layer_of(16, 3), s=layer_of(3, 3), d=layer_of(3, 16)
        ),
        (1, 5, 16),
        "add_1: a side network is added, which reads tanh and relu_1; it is no branch of one layer: it stays",
    ),
    "also read without it": (
        lambda: Module(_read_twice, **_parts("w", "a", "b")),  # type: ignore[arg-type]
        (1, 5, 16),
        "add: linear is also read without it, by an output; two layers would take the place of one",
    ),
    "groups mixed": (
        lambda: Module(lambda m, x: torch.relu(m.c(x) + m.p(x)), c=nn.Conv2d(6, 6, 3, padding=1, groups=3), p=nn.Conv2d(6, 6, 1)),
        (1, 6, 8, 8),
        "add: it mixes the 3 groups of the convolution; it stays beside the layer",
    ),
    "padding after a shift": (
        lambda: Module(
            lambda m, x: torch.relu(m.c(x) + m.q(m.p(x))),
            c=nn.Conv2d(6, 6, 3, padding=1),
            p=nn.Conv2d(6, 2, 1),
            q=nn.Conv2d(2, 6, 3, padding=1),
        ),
        (1, 6, 8, 8),
        "add: conv2d_2: it pads with zeros what was shifted before; it stays beside the layer",
    ),
    "beside another function": (
        lambda: Module(lambda m, x: m.v(functional.gelu(m.w(x))) + m.b(torch.relu(m.a(x))), v=layer_of(24, 24), **_parts("w", "a", "b")),
        (1, 5, 16),
        "add: relu is not gelu, the function beside it; it stays beside the layer",
    ),
    "terms that cancel": (
        lambda: Module(_cancelling, **_parts("w", "a", "b")),
        (1, 5, 16),
        "its terms cancel too far for its dtype: it stays",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fold_is_refused_with_the_reason(name: str) -> None:
    make, shape, expected = REFUSED[name]
    program, context = captured(make(), *shape), Context()
    assert FoldAdapters().apply(program, context) is program
    (found,) = refusals(context)
    assert expected in found


def test_constants_of_half_precision_stay() -> None:
    program = captured(
        Module(lambda m, x: torch.tanh(m.w(x) + m.b(m.a(x))), **_parts("w", "a", "b")).bfloat16(), 1, 5, 16, dtype=torch.bfloat16
    )
    context = Context()
    assert FoldAdapters().apply(program, context) is program
    assert refusals(context) == ["add: linear: it computes in torch.bfloat16; convert the model to float32"]


def test_a_low_rank_layer_stays_one() -> None:
    """Two narrow layers are no adapter: one would cost more."""
    program = captured(Module(lambda m, x: torch.tanh(m.b(m.a(x))), **_parts("a", "b")), 1, 5, 16)
    assert FoldAdapters().apply(program, Context()) is program
