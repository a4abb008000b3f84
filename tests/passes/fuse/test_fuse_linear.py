"""Layers in a row become one where that is no larger and the same at the borders; what was factorised stays."""

from __future__ import annotations

import torch
from float_programs import Chain, applied, captured, operators, refusals, untouched
from fxpress_ir import capture
from fxpress_passes import Context, Factorize
from fxpress_passes.fuse.fuse_linear import FuseLinear
from fxpress_passes.latency import TimeRatio
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 1, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


class Several(nn.Module):
    """Models side by side, each on as many channels of [batch, 8, 9, 9], or as many features of a row of it, as its first layer takes."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(self.input_of(model[0], x)) for model in self.models)

    @staticmethod
    def input_of(first: nn.Module, x: Tensor) -> Tensor:
        if isinstance(first, nn.Linear):
            return x[:, 0, :, : first.in_features]
        channels = x[:, : first.in_channels]
        return channels[:, :, 0] if isinstance(first, nn.Conv1d) else channels


SHAPE = (2, 8, 9, 9)
FUSED: list[tuple[tuple[nn.Module, ...], list[int]]] = [
    ((nn.Linear(6, 9), nn.Linear(9, 4)), [4, 6]),
    ((nn.Linear(6, 9, bias=False), nn.Linear(9, 4, bias=False)), [4, 6]),
    ((nn.Linear(6, 9, bias=False), nn.Linear(9, 7), nn.Linear(7, 5)), [5, 6]),
    ((conv(3, 8), conv(8, 4, 3)), [4, 3, 3, 3]),
    ((conv(3, 8, bias=False), conv(8, 4, 3, padding=1, stride=2)), [4, 3, 3, 3]),
    ((conv(3, 8, 3, padding=1, stride=2, dilation=2), conv(8, 2, stride=2)), [2, 3, 3, 3]),
    ((conv(3, 8, stride=2), conv(8, 4)), [4, 3, 1, 1]),
    ((conv(3, 8, bias=False), conv(8, 4, padding=1)), [4, 3, 1, 1]),
    ((nn.Conv1d(3, 8, 1), nn.Conv1d(8, 4, 3)), [4, 3, 3]),
]
"""Layers in a row ==> the weight of the one that they become."""


def test_before_and_expected() -> None:
    program = captured(Several(*(Chain(*layers) for layers, _ in FUSED)), *SHAPE)
    after = applied(FuseLinear(), program)
    layers = [node for node in after.graph.nodes if str(node.target).startswith(("aten.linear", "aten.conv"))]
    assert [list(after.tensors[str(layer.args[1].target)].shape) for layer in layers] == [weight for _, weight in FUSED]
    assert FuseLinear().apply(after, Context()) is after


def test_a_shared_weight_is_left_to_its_other_readers() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x)) + self.first(x).relu()
            return y

    after = applied(FuseLinear(), captured(Shared(), 2, 6))
    assert sorted(operators(after)) == ["aten.add.Tensor", "aten.linear", "aten.linear", "aten.relu"]
    assert "first.weight" in after.tensors


def test_lengths_stay_dynamic() -> None:
    sizes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=3)},)
    program = capture(Chain(conv(3, 8), conv(8, 4, 3)).eval(), (torch.zeros(2, 3, 8, 6),), dynamic_shapes=sizes)
    after = FuseLinear().apply(program, Context())
    assert len(operators(after)) == 1
    x = torch.randn(3, 3, 11, 6)
    torch.testing.assert_close(after.run(x)[0], program.run(x)[0], rtol=1e-4, atol=1e-5)


def test_what_was_factorised_stays() -> None:
    program = captured(Chain(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)), 2, 16)
    thin = Factorize(ratio=0.5, metric="plain").apply(program, Context())
    assert operators(thin).count("aten.linear") == 4
    context = Context()
    assert FuseLinear().apply(thin, context) is thin
    assert all("elements, the two have" in refusal for refusal in refusals(context))


class Twice(Chain):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self[1](self[0](x)) + self[1](self[0](x).relu())
        return y


class TwoReaders(Chain):
    def forward(self, x: Tensor) -> Tensor:
        y = self[0](x)
        result: Tensor = self[1](y) + y.sum()
        return result


STAY = [
    (Chain(nn.Linear(9, 2), nn.Linear(2, 9)), "one weight would have 81 elements, the two have 36"),
    (Chain(conv(8, 4, stride=2), conv(4, 8, 3)), "the first one leaves pixels out"),
    (Chain(conv(3, 8), conv(8, 4, 3, padding=1)), "the second one pads with zeros what has a bias"),
    (Chain(conv(3, 8, 3), conv(8, 4, padding=1)), "the second one pads single pixels"),
    (Chain(conv(3, 8, padding=1), conv(8, 4, 3)), "the first one pads single pixels"),
    (Chain(conv(3, 8, 3), conv(8, 4, 3)), "both convolutions look at neighbours"),
    (Chain(conv(4, 4, 3, groups=4), conv(4, 2)), "one convolution is in groups"),
    (TwoReaders(nn.Linear(6, 9), nn.Linear(9, 4)), "2 operators read what is between"),
    (
        Twice(nn.Linear(6, 9), nn.Linear(9, 6)),
        "one weight would have 36 elements beside those that are read elsewhere, the two have 108",
    ),
]


def test_what_is_larger_or_other_at_the_borders_stays() -> None:
    program, context = captured(Several(*(model for model, _ in STAY)), *SHAPE), Context()
    with untouched(program):
        assert FuseLinear().apply(program, context) is program
    found = [refusal.split(": ", 1)[1].split(", so it")[0] for refusal in refusals(context)]
    assert list(dict.fromkeys(found)) == list(dict.fromkeys(reason for _, reason in STAY))


def test_a_stride_after_the_first_layer_is_paid_for() -> None:
    """As many weights, but a 1x1 convolution of few channels over many pixels is cheaper than a window there."""
    program, context = captured(Chain(conv(4, 3, 1), conv(3, 4, 3, stride=1)), 2, 4, 7, 6), Context()
    assert FuseLinear().apply(program, context) is program
    assert "one weight would have 144 elements, the two have 120" in refusals(context)[0]


def test_a_pair_that_is_not_faster_stays() -> None:
    class Measured:
        def ratio(self, program: object, parent: object) -> TimeRatio:
            return TimeRatio(1.0, 0.9, 1.1)

    program, context = captured(Chain(nn.Linear(6, 9), nn.Linear(9, 4)), 2, 6), Context()
    assert FuseLinear(latency=Measured()).apply(program, context) is program
    assert refusals(context)[0].startswith("linear and linear_1: fused, the program takes 1.000 [0.900, 1.100] of its time")
