"""In-place operators become functional with the same bits, or are refused where a view could tell the difference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_ir import capture
from fxpress_ir.errors import CaptureError
from torch import Tensor, nn
from torch.nn import functional

Body = Callable[[Tensor], Tensor | tuple[Tensor, ...]]


class Does(nn.Module):
    """A module of one function and one buffer."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("table", torch.ones(4, 3))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.body(x)


def chained(x: Tensor) -> Tensor:
    y = x * 2
    y.add_(1).relu_().mul_(3)
    return functional.dropout(functional.relu(y, inplace=True), 0.5, False, inplace=True)


def reader_after_the_write(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    y.relu_()
    return y + 1, y.view(-1) * 3


def reader_before_the_write(x: Tensor) -> Tensor:
    y = x * 2
    mean = y.mean()
    return y.relu_() + mean


def view_read_before_the_write(x: Tensor) -> Tensor:
    y = x * 2
    first = y.view(-1).sum()
    return y.relu_() * first


def view_written_and_base_dead(x: Tensor) -> Tensor:
    y = x * 2
    scale = y.sum()
    flat = y.flatten()
    flat.relu_()
    return flat * scale


def size_of_the_base_read(x: Tensor) -> Tensor:
    y = x * 2
    flat = y.view(-1)
    flat.relu_()
    return flat.view(y.size(0), -1)


def residual_after_dropout(x: Tensor) -> Tensor:
    y = functional.dropout(x * 2, 0.5, False)
    y += x
    return y


def filled(x: Tensor) -> Tensor:
    return (x * 2).masked_fill_(x > 0, -1.0).clamp_(-2, 2).sub_(x, alpha=2)


def view_of_the_result(x: Tensor) -> Tensor:
    y = (x * 2).relu_()
    return y.transpose(0, 1).add_(1)


ACCEPTED = (
    chained,
    reader_after_the_write,
    reader_before_the_write,
    view_read_before_the_write,
    view_written_and_base_dead,
    size_of_the_base_read,
    residual_after_dropout,
    filled,
    view_of_the_result,
)


@pytest.mark.parametrize("body", ACCEPTED)
def test_a_write_becomes_a_value_with_the_same_bits(body: Body) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    program = capture(Does(body), (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert not any(node.target._schema.is_mutable for node in program.graph.nodes if hasattr(node.target, "_schema"))
    for batch in (x, x[:1], torch.cat([x, -x])):
        expected = body(batch.clone())
        for found, wanted in zip(program.run(batch), expected if isinstance(expected, tuple) else (expected,), strict=True):
            assert torch.equal(found, wanted)
    assert torch.equal(x, kept)


def base_read_after_its_view_was_written(x: Tensor) -> Tensor:
    y = x * 2
    y.view(-1).relu_()
    return y + 1


def view_read_after_its_base_was_written(x: Tensor) -> Tensor:
    y = x * 2
    flat = y.view(-1)
    y.relu_()
    return flat + 1


def base_read_after_a_part_was_written(x: Tensor) -> Tensor:
    y = x * 2
    left, _ = y.chunk(2)
    left.add_(1)
    return y + 1


def row_written(x: Tensor) -> Tensor:
    y = x * 2
    y[0] = 5.0
    return y


def view_returned(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    flat = y.view(-1)
    y.relu_()
    return y, flat


def source_read_after_idle_dropout(x: Tensor) -> Tensor:
    y = x * 2
    z = functional.dropout(y, 0.5, False)
    z.add_(1)
    return y + z


@pytest.mark.parametrize(
    "body",
    [
        base_read_after_its_view_was_written,
        view_read_after_its_base_was_written,
        base_read_after_a_part_was_written,
        row_written,
        view_returned,
        source_read_after_idle_dropout,
    ],
)
def test_a_write_through_a_live_view_is_refused_at_its_line(body: Body) -> None:
    with pytest.raises(CaptureError, match="a view of it are both used after the write") as caught:
        capture(Does(body), (torch.zeros(4, 3),))
    assert str(caught.value).startswith(f"{__file__}:")
    first = body.__code__.co_firstlineno
    assert first < int(str(caught.value).split(":")[1]) < first + 7


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return x + self.seen


@pytest.mark.parametrize(
    "model", [Does(lambda x: x.relu_()), Does(lambda x: x.view(-1).add_(1)), Does(lambda x: x.detach().mul_(2)), Counts()]
)
def test_a_write_to_an_input_or_a_buffer_is_refused(model: nn.Module) -> None:
    with pytest.raises(CaptureError, match="writes to an input or a weight; write to a clone"):
        capture(model, (torch.zeros(4, 3),))


def test_a_write_that_rounds_to_its_target_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"add_ rounds its result to torch\.float32"):
        capture(Does(lambda x: (x * 2).add_(torch.ones(3, dtype=torch.float64))), (torch.zeros(4, 3),))


def test_a_write_without_a_functional_form_is_refused() -> None:
    with pytest.raises(CaptureError, match="has no functional form"):
        capture(Does(lambda x: torch.add(x, 1, out=x * 2)), (torch.zeros(4, 3),))


def test_assertions_of_export_are_dropped() -> None:
    class Checked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[1] == 3, "three columns")
            torch._assert_async((x > -1e9).all())
            return x + 1

    program = capture(Checked(), (torch.zeros(4, 3),))
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"] == ["aten.add.Tensor"]
