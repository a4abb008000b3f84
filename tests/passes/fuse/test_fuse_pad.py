"""What pads for a convolution or a pool is that operator's own padding, at any size; other paddings stay."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from float_programs import Function, applied, captured, operators, refusals, untouched
from fxpress_ir import capture
from fxpress_ir.ops import arguments
from fxpress_passes import Context
from fxpress_passes.fuse.fuse_pad import FusePad
from torch import Tensor, nn
from torch.nn import functional

Body = Callable[[Tensor], Tensor]


class Convolution(nn.Module):
    """A convolution of any dimension behind what `before` does."""

    def __init__(self, before: Body, kind: type[nn.Module] = nn.Conv2d, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.layer = before, kind(3, 4, 3, **options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.before(x))
        return y


def zeros(*pads: int, value: float = 0.0, mode: str = "constant") -> Body:
    return lambda x: functional.pad(x, pads, mode=mode, value=None if mode != "constant" else value)


@pytest.mark.parametrize(
    ("model", "shape", "padding"),
    [
        (Convolution(zeros(1, 1, 2, 2)), (2, 3, 7, 6), [2, 1]),
        (Convolution(zeros(1, 1), padding=1, stride=2), (2, 3, 7, 6), [1, 2]),
        (Convolution(zeros(1, 1, 1, 1, 0, 0), padding="valid", groups=1), (2, 3, 7, 6), [1, 1]),
        (Convolution(zeros(2, 2), nn.Conv1d, padding="valid"), (2, 3, 9), [2]),
        (Convolution(zeros(1, 1, 0, 0, 2, 2), nn.Conv3d, dilation=2), (2, 3, 5, 6, 7), [2, 0, 1]),
        (lambda x: functional.max_pool2d(zeros(1, 1, 1, 1, value=-math.inf)(x), 3, 2), (2, 3, 7, 6), [1, 1]),
        (lambda x: functional.max_pool2d(zeros(1, 1, 1, 1)(functional.relu(x)), 3, 2), (2, 3, 7, 6), [1, 1]),
        (lambda x: functional.avg_pool2d(zeros(1, 1)(x), 3, padding=(1, 0)), (2, 3, 7, 6), [1, 1]),
    ],
    ids=["two sizes", "beside its own", "valid", "1d", "3d", "maximum", "maximum of a ReLU", "average"],
)
def test_before_and_expected(model: nn.Module | Body, shape: tuple[int, ...], padding: list[int]) -> None:
    before = captured(model, *shape)
    after = applied(FusePad(), before)
    assert operators(after) == [name.removesuffix(".padding") for name in operators(before) if name != "aten.pad"]
    assert arguments(after.graph.output_node().args[0][0])["padding"] == padding


def test_sizes_stay_dynamic() -> None:
    shapes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4), 3: torch.export.Dim("width", min=4)},)
    program = capture(Convolution(zeros(1, 1, 1, 1)).eval(), (torch.zeros(2, 3, 8, 9),), dynamic_shapes=shapes)
    after = FusePad().apply(program, Context())
    for size in ((1, 3, 5, 8), (3, 3, 12, 7)):
        x = torch.randn(size)
        torch.testing.assert_close(after.run(x)[0], program.run(x)[0], rtol=1e-6, atol=1e-6)


def test_another_reader_keeps_what_is_padded() -> None:
    class Both(Convolution):
        def forward(self, x: Tensor) -> Tensor:
            y = self.before(x)
            result: Tensor = self.layer(y).mean() + y
            return result

    after = applied(FusePad(), captured(Both(zeros(1, 1, 1, 1)), 2, 3, 7, 6))
    assert operators(after) == ["aten.pad", "aten.conv2d", "aten.mean", "aten.add.Tensor"]


STAY = [
    (Convolution(zeros(0, 1, 0, 1), stride=2), "conv2d cannot pad for it: it pads its ends unlike each other"),
    (Convolution(zeros(1, 1, value=0.5)), "conv2d cannot pad for it: it pads with 0.5"),
    (Convolution(zeros(1, 1, 1, 1, mode="reflect")), "conv2d cannot pad for it: it pads by reflect"),
    (Convolution(zeros(-1, -1)), "conv2d cannot pad for it: it cuts"),
    (Convolution(lambda x: zeros(0, 0, 0, 0, 1, 1)(x)[:, 1:4]), None),
    (Convolution(lambda x: functional.pad(x[:, :1], (0, 0, 0, 0, 1, 1))), "conv2d cannot pad for it: it pads channels or batches"),
    (Convolution(zeros(1, 1), padding="same"), "conv2d cannot pad for it: its own padding is 'same'"),
    (
        Function(lambda x: functional.max_pool2d(zeros(1, 1)(x), 3)),
        "max_pool2d cannot pad for it: it pads with 0, which may be a maximum",
    ),
    (
        Function(lambda x: functional.avg_pool2d(zeros(1, 1)(x), 3, padding=1, count_include_pad=False)),
        "avg_pool2d cannot pad for it: its divisor would leave out what is padded",
    ),
    (
        Function(lambda x: functional.avg_pool2d(zeros(1, 1)(x), 3, padding=1)),
        "avg_pool2d cannot pad for it: a padding of [1, 2] is more than half of its windows",
    ),
    (
        Function(lambda x: functional.avg_pool2d(zeros(1, 1)(x), 3, ceil_mode=True)),
        "avg_pool2d cannot pad for it: the last windows that it rounds up to would be others",
    ),
]
"""What pads and reads ==> why it stays, None where nothing is said."""


def test_other_paddings_stay() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.models = nn.ModuleList(model for model, _ in STAY)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(model(x) for model in self.models)

    program, context = captured(Several(), 2, 3, 7, 6), Context()
    with untouched(program):
        assert FusePad().apply(program, context) is program
    found = [re.sub(r"^\S+ (\w+?)(_\d+)? cannot", r"\1 cannot", refusal).split("; ")[0] for refusal in refusals(context)]
    assert found == [reason for _, reason in STAY if reason is not None]
