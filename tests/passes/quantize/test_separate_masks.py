"""Constants that hide keys leave the sums that softmax reads and become booleans; what they add beside that stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import BATCHES, Chain, Function, applied, captured, operators, refusals, sample, untouched
from fxpress_ir import Program, capture
from fxpress_passes import Context, SeparateMasks
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.attention import UNSEEN
from torch import Tensor, fx, nn

_aten = torch.ops.aten
SEEN = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.4
SEEN.fill_diagonal_(True)
NUMBERS = torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
MASK = torch.where(SEEN, 0.0, -100.0)


class Scored(nn.Module):
    """``body(x, *constants)``."""

    def __init__(self, body: Callable[..., Tensor], *constants: Tensor) -> None:
        super().__init__()
        self.body = body
        for position, constant in enumerate(constants):
            self.register_buffer(f"c{position}", constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, *(buffer for _, buffer in self.named_buffers()))


def _scored(body: Callable[..., Tensor], *constants: Tensor, dtype: torch.dtype = torch.float32) -> Program:
    return captured(Scored(body, *constants), 2, 3, 6, 6, dtype=dtype)


def _booleans(program: Program) -> list[Tensor]:
    return [tensor for tensor in program.tensors.values() if tensor.dtype == torch.bool]


@pytest.mark.parametrize("hidden", [-100.0, UNSEEN, float("-inf"), torch.finfo(torch.float32).min])
def test_a_mask_becomes_a_boolean(hidden: float) -> None:
    after = applied(SeparateMasks(), _scored(lambda x, mask: (x + mask).softmax(-1), torch.where(SEEN, 0.0, hidden)))
    assert operators(after) == ["aten.where.ScalarOther", "aten.softmax.int"]
    assert len(after.tensors) == 1
    assert torch.equal(*_booleans(after), SEEN)
    for batch in BATCHES:
        probabilities = after.run(*sample(after, batch))[0]
        assert torch.equal(probabilities == 0, ~SEEN.expand_as(probabilities))


def test_one_constant_that_hides_and_adds_comes_apart() -> None:
    after = applied(SeparateMasks(), _scored(lambda x, mask: (mask + x * 0.5).softmax(3), torch.where(SEEN, NUMBERS, -60.0)))
    assert operators(after) == ["aten.mul.Tensor", "aten.add.Tensor", "aten.where.ScalarOther", "aten.softmax.int"]
    (numbers,) = [tensor for tensor in after.tensors.values() if tensor.dtype == torch.float32]
    assert torch.equal(numbers, NUMBERS.where(SEEN, 0.0))
    assert torch.equal(*_booleans(after), SEEN)


def _windowed(x: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Swin's shifted windows, [batch, 2, heads, 6, 6]: a bias for all, and a mask of each window of an image."""
    masks = mask.unsqueeze(0).unsqueeze(2).expand(x.shape[0], -1, -1, -1, -1).reshape(-1, 1, 6, 6)
    return (x.flatten(0, 1) + (bias + masks)).softmax(-1)


def test_terms_are_moved_constants() -> None:
    bias, windows = NUMBERS[None, None], torch.stack([MASK, torch.zeros(6, 6)])[None, :, None]
    before = captured(Scored(lambda x, bias, mask: _windowed(x, bias, mask[0, :, 0]), bias, windows), 2, 2, 3, 6, 6)
    after = applied(SeparateMasks(), Pipeline.parse("fold-constants").run(before).program)
    (where,) = after.graph.find_nodes(op="call_function", target=_aten.where.ScalarOther)
    mask, scores = where.args[:2]
    assert isinstance(mask, fx.Node)
    assert isinstance(scores, fx.Node)
    assert [node.target for node in (mask, *mask.all_input_nodes[:1])] == [_aten.reshape.default, _aten.expand.default]
    assert mask.meta["val"].dtype == torch.bool
    assert torch.equal(*_booleans(after), windows == 0)
    assert scores.target is _aten.add.Tensor
    assert torch.equal(after.tensors[str(scores.args[1].target)], bias)  # type: ignore[union-attr]


def test_a_constant_that_several_read_is_written_once() -> None:
    after = applied(SeparateMasks(), _scored(lambda x, mask: (x + mask).softmax(-1) + (x * 2 + mask).softmax(-1), MASK))
    assert operators(after).count("aten.where.ScalarOther") == 2
    assert len(after.tensors) == 1


def test_several_masks_all_hide() -> None:
    other = torch.where(SEEN.T, 0.0, -100.0)
    after = applied(SeparateMasks(), _scored(lambda x, one, two: (x + one + two).softmax(-1), MASK, other))
    assert operators(after) == ["aten.where.ScalarOther"] * 2 + ["aten.softmax.int"]


def _sequences(body: Callable[..., Tensor], *constants: Tensor) -> Program:
    dynamic = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", min=2, max=5)},)
    return capture(Scored(body, *constants), (torch.zeros(2, 4, 3),), dynamic_shapes=dynamic)


def _cut(x: Tensor, mask: Tensor) -> Tensor:
    return (x @ x.transpose(1, 2) + mask[: x.shape[1], : x.shape[1]]).softmax(-1)


CAUSAL = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1) > 0, -100.0)


def test_a_mask_may_be_cut_to_a_symbolic_length() -> None:
    before = _sequences(_cut, CAUSAL)
    after = SeparateMasks().apply(before, Context())
    assert torch.equal(*_booleans(after), torch.ones(6, 6).tril() > 0)
    for length in (2, 5):
        x = torch.randn(3, length, 3, generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(after.run(x)[0], before.run(x)[0], rtol=0, atol=1e-6)  # exp(-100) and 0


HIDDEN = MASK.clone()
HIDDEN[2] = -100.0
REFUSED: dict[str, tuple[Callable[[], Program], str]] = {
    "a query sees nothing": (lambda: _scored(lambda x, mask: (x + mask).softmax(-1), HIDDEN), "its mask may hide all keys of a query"),
    "all rows are one value": (
        lambda: _scored(lambda x, mask: (x + mask.unsqueeze(-1).expand(6, 6)).softmax(-1), MASK[0]),
        "its mask may hide all keys of a query",
    ),
    "the first key may be the only one": (lambda: _sequences(_cut, CAUSAL.flip(1)), "its mask may hide all keys of a query"),
    "along another dimension": (lambda: _scored(lambda x, mask: (x + mask).softmax(2), MASK), "it is not over the last dimension"),
    "another type": (
        lambda: _scored(lambda x, mask: (x + mask).softmax(-1), MASK.double(), dtype=torch.float64),
        "it computes in torch.float64",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_separated_is_refused_by_name(name: str) -> None:
    program, reason = REFUSED[name]
    before, context = program(), Context()
    with untouched(before):
        assert SeparateMasks().apply(before, context) is before
    assert refusals(context) == [f"softmax: {reason}; the mask stays a term of the scores"]


@pytest.mark.parametrize(
    "program",
    [
        lambda: _scored(lambda x, bias: (x + bias).softmax(-1), NUMBERS),
        lambda: _scored(lambda x, mask: x.softmax(-1) + mask, MASK),
        lambda: _scored(lambda x, mask: torch.add(x, mask, alpha=2).softmax(-1), MASK),
        lambda: _scored(lambda x, mask: (x + x.mT + mask).softmax(-1), MASK),
        lambda: captured(Chain(nn.Softmax(-1)), 2, 6),
        lambda: captured(Function(lambda x: (x - 100).softmax(-1)), 2, 6),
    ],
    ids=["numbers", "no scores", "scaled", "two computed terms", "no sum", "a number"],
)
def test_what_hides_nothing_comes_back(program: Callable[[], Program]) -> None:
    before, context = program(), Context()
    assert SeparateMasks().apply(before, context) is before
    assert not context.refusals
