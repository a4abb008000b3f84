"""Products and sums with constants go into weights before or after them; where none takes them they become one of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import applied, captured, operators, refusals, sample, untouched
from fxpress_ir import Program, capture
from fxpress_passes import Context, FoldConstants
from fxpress_passes.fuse.fuse_affine import FuseAffine
from fxpress_passes.pipeline import Pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Layers and constants for every case; `body` puts some of them together."""

    def __init__(self, body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.linear, self.second, self.wide = nn.Linear(6, 6), nn.Linear(6, 4, bias=False), nn.Linear(6, 18)
        self.conv, self.padded, self.grouped = nn.Conv2d(6, 8, 3), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 6, 3, groups=3)
        self.joins = nn.Conv2d(12, 4, 3, padding=1)
        self.norm, self.rms, self.groups = nn.LayerNorm(6, elementwise_affine=False), nn.RMSNorm(6), nn.GroupNorm(2, 6)
        self.gain, self.shift = nn.Parameter(torch.rand(6) + 0.5), nn.Parameter(torch.randn(6))
        self.by_row = nn.Parameter(torch.rand(3, 1))
        self.by_eight = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


Body = Callable[[Any, Tensor], Tensor]


def net(body: Body, *shape: int) -> Program:
    """Captured, its constants folded."""
    return FoldConstants().apply(captured(Net(body), *shape), Context())


ROWS, IMAGE = (2, 3, 6), (2, 6, 5, 4)


def channels(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1)


FUSED: list[tuple[Body, tuple[int, ...], list[str]]] = [
    (lambda m, x: m.linear(x) * 2 - 0.5, ROWS, ["aten.linear"]),
    (lambda m, x: m.linear(x) * m.gain + m.shift, ROWS, ["aten.linear"]),
    (lambda m, x: (1 - m.linear(x)) / 3 * m.gain, ROWS, ["aten.linear"]),
    (lambda m, x: m.shift - m.linear(x), ROWS, ["aten.linear"]),
    (lambda m, x: -m.conv(x) * m.by_eight, IMAGE, ["aten.conv2d"]),
    (lambda m, x: m.norm(x) * m.gain + m.shift, ROWS, ["aten.layer_norm"]),
    (lambda m, x: m.rms(x) * 0.5, ROWS, ["aten.rms_norm"]),
    (lambda m, x: m.groups(x) * channels(m.gain) - 1, IMAGE, ["aten.group_norm"]),
    (lambda m, x: m.linear(x).view(-1, 3, 2, 3).transpose(1, 2) * 0.25, ROWS, ["aten.linear", "aten.view", "aten.transpose.int"]),
    (lambda m, x: m.second(x * m.gain + m.shift), ROWS, ["aten.linear"]),
    (lambda m, x: m.conv((x - 0.5) / 0.25), IMAGE, ["aten.conv2d"]),
    (lambda m, x: m.padded(x * 3), IMAGE, ["aten.conv2d"]),
    (lambda m, x: m.grouped(x * 3 + 1), IMAGE, ["aten.conv2d"]),
    (
        lambda m, x: m.second(y := x.relu() * 2) + m.linear(y)[..., :4],
        ROWS,
        ["aten.relu", "aten.linear", "aten.linear", "aten.slice.Tensor", "aten.add.Tensor"],
    ),
    (lambda m, x: m.joins(torch.cat([x, x.relu() * 0.7], 1)), IMAGE, ["aten.relu", "aten.cat", "aten.conv2d"]),
]
"""What is computed, on inputs of which shape ==> the operators that are left."""


@pytest.mark.parametrize("shape", [ROWS, IMAGE], ids=["rows", "image"])
def test_before_and_expected(shape: tuple[int, ...]) -> None:
    cases = [(body, operators) for body, taken, operators in FUSED if taken == shape]
    program = net(lambda m, x: tuple(body(m, x) for body, _ in cases), *shape)
    after = applied(FuseAffine(), program)
    assert operators(after) == [operator for _, expected in cases for operator in expected]
    assert FuseAffine().apply(after, Context()) is after


def test_a_scale_goes_into_the_rows_of_its_slice() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.wide(x).split(6, -1)
        result: Tensor = (q * 0.5) @ k.transpose(1, 2) @ v
        return result

    program = net(body, *ROWS)
    after = applied(FuseAffine(), program)
    assert "aten.mul.Tensor" not in operators(after)
    before = program.tensors["wide.weight"]
    (scaled,) = [tensor for name, tensor in after.tensors.items() if name.endswith("weight.scaled")]
    assert torch.equal(scaled, torch.cat([before[:6] * 0.5, before[6:]]))


def test_a_scaled_skip_goes_into_its_input_channels() -> None:
    """ScaleLong: skips of a U-Net are multiplied by constants."""
    program = net(lambda m, x: m.joins(torch.cat([x, x.relu() * 0.7], 1)), *IMAGE)
    after = applied(FuseAffine(), program)
    before = program.tensors["joins.weight"]
    (scaled,) = [tensor for name, tensor in after.tensors.items() if name.endswith("weight.scaled")]
    torch.testing.assert_close(scaled, torch.cat([before[:, :6], before[:, 6:] * 0.7], 1))


def test_a_table_that_an_output_shares_is_not_scaled() -> None:
    class Tied(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.tokens, self.tied = nn.Embedding(9, 6), tied
            self.head = nn.Parameter(torch.randn(9, 6))

        def forward(self, ids: Tensor) -> Tensor:
            y = (self.tokens(ids) * 2.5).relu()
            return functional.linear(y, self.tokens.weight if self.tied else self.head)

    shapes = ({0: torch.export.Dim("batch")},)
    for tied in (False, True):
        program = capture(Tied(tied).eval(), (torch.zeros(2, 3, dtype=torch.int64),), dynamic_shapes=shapes)
        context = Context()
        after = FuseAffine().apply(program, context)
        assert (after is program) == tied
        assert ["the table of embedding is read elsewhere too" in refusal for refusal in refusals(context)] == [True] * tied
        ids = torch.randint(0, 9, (3, 3))
        torch.testing.assert_close(after.run(ids)[0], program.run(ids)[0], rtol=1e-4, atol=1e-5)


def test_sizes_stay_dynamic_and_are_asked_elsewhere() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        y = m.linear(x) * 2
        result: Tensor = (y + 1).reshape(y.shape[0], y.shape[1] * 2, 3).relu()
        return result

    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)},)
    program = capture(Net(body).eval(), (torch.zeros(2, 3, 6),), dynamic_shapes=shapes)
    after = FuseAffine().apply(program, Context())
    assert "aten.mul.Tensor" not in operators(after)
    for size in ((1, 4), (3, 5)):
        x = torch.randn(*size, 6)
        torch.testing.assert_close(after.run(x)[0], program.run(x)[0], rtol=1e-4, atol=1e-5)


def test_a_chain_between_nonlinearities_becomes_one_product_and_one_sum() -> None:
    program = net(lambda m, x: (((x.relu() * 2 + 1) * m.gain - m.shift) / 4 + 1).tanh(), *ROWS)
    after = applied(FuseAffine(), program)
    assert operators(after) == ["aten.relu", "aten.mul.Tensor", "aten.add.Tensor", "aten.tanh"]
    assert FuseAffine().apply(after, Context()) is after


def test_what_cancels_goes() -> None:
    after = applied(FuseAffine(), net(lambda m, x: (-(-x.relu() * 2) / 2).tanh(), *ROWS))
    assert operators(after) == ["aten.relu", "aten.tanh"]


STAY: list[tuple[Body, tuple[int, ...], str | None]] = [
    (lambda m, x: m.padded(x + 0.5), IMAGE, "it follows x, which is no layer, and conv2d pads what it shifts"),
    (lambda m, x: (y := m.linear(x)) * 2 + y.relu(), ROWS, "linear is also read by relu, and it is read by add, which is no layer"),
    (lambda m, x: m.linear(x) * m.by_row, ROWS, "it differs along another dimension than the outputs of linear, and"),
    (lambda m, x: (m.rms(x) + 1).relu(), ROWS, "rms_norm has no shift, and it is read by relu, which is no layer"),
    (lambda m, x: (m.wide(x)[..., :6] * 2).relu() + m.wide(x)[..., :6], ROWS, None),
    (lambda m, x: ((y := m.wide(x))[..., :6] * 2).relu() + y[..., 3:9], ROWS, "slice reads outputs of linear that it scales, and"),
]
"""What is computed, on inputs of which shape ==> why it stays, None where it does not."""


@pytest.mark.parametrize("shape", [ROWS, IMAGE], ids=["rows", "image"])
def test_what_weights_cannot_take_stays(shape: tuple[int, ...]) -> None:
    cases = [(body, reason) for body, taken, reason in STAY if taken == shape]
    program, context = net(lambda m, x: tuple(body(m, x) for body, _ in cases), *shape), Context()
    with untouched(program):
        after = FuseAffine().apply(program, context)
    assert (after is program) == all(reason is not None for _, reason in cases)
    found = [re.sub(r"_\d+", "", refusal) for refusal in refusals(context)]
    wanted = [reason for _, reason in cases if reason is not None]
    assert len(found) == len(wanted)
    assert all(reason in refusal for refusal, reason in zip(found, wanted, strict=True))


STEPS = st.lists(
    st.tuples(st.sampled_from(["mul", "div", "add", "sub", "rsub", "neg"]), st.integers(1, 8), st.booleans()), min_size=1, max_size=5
)


@settings(max_examples=6, deadline=None)
@given(steps=STEPS, scale=st.booleans())
def test_any_chain_is_what_it_was(steps: list[tuple[str, int, bool]], scale: bool) -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        y = m.linear(x) if scale else x.tanh()
        for name, number, by_channel in steps:
            constant = m.gain * number if by_channel else number / 2
            y = {
                "mul": lambda a, c: a * c,
                "div": lambda a, c: a / c,
                "add": lambda a, c: torch.add(a, c, alpha=2),
                "sub": lambda a, c: a - c,
                "rsub": lambda a, c: c - a,
                "neg": lambda a, c: -a,
            }[name](y, constant)
        return y.sigmoid() if not scale else y

    program = net(body, *ROWS)
    after = FuseAffine().apply(program, Context())
    inputs = sample(program, 2)
    expected, found = program.run(*inputs)[0], after.run(*inputs)[0]
    assert float((expected - found).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_the_gain_of_a_written_out_norm_stays_its_own() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        result: Tensor = m.second(m.gain * unit)
        return result

    program = Pipeline([FuseAffine()]).run(net(body, *ROWS)).program
    assert operators(program) == ["aten.rms_norm", "aten.linear"]
    assert "gain" in program.tensors
