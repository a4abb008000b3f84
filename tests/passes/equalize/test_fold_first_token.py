"""A first token that is folded: what stands in its place, the same function, nearer integers, and where it is not folded."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from float_programs import applied, captured, measured, operators, refusals, untouched
from fxpress_ir import Program, capture
from fxpress_ir.errors import CalibrationError, PassError, PipelineError
from fxpress_passes import Context, FoldFirstToken
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Pipeline
from stretched import LONGEST, TOKEN, VOCABULARY, ClassToken, FirstToken, sequences
from torch import Tensor, nn
from torch.export import Dim

PREPARE = "fold-constants, compose-linear, compose-rms-norm, decompose-unflatten, decompose-attention"
MASKS = ("is_causal", "fill", "term")


@cache
def _program(causal: bool = True, planted: bool = True, shortest: int = 2) -> Program:
    shapes = {"ids": {0: Dim("batch"), 1: Dim("seq", min=shortest, max=LONGEST)}}
    program = capture(FirstToken(causal, planted).eval(), sequences(2, 12, 0), dynamic_shapes=shapes)
    return Pipeline.parse(PREPARE).run(program).program


def _context(first: int | None = TOKEN, length: int = 12) -> Context:
    return Context(Evidence(Calibration([sequences(8, length, seed, first) for seed in range(4)])))


@pytest.mark.parametrize(("count", "length"), [(1, 2), (3, 20), (2, LONGEST)])
def test_the_function_is_the_same_at_every_length(count: int, length: int) -> None:
    program = _program()
    with untouched(program):
        after = FoldFirstToken(token=TOKEN).apply(program, _context())
    assert after is not program
    inputs = sequences(count, length, 9)
    assert FoldFirstToken.promise.held(difference(program.run(*inputs), after.run(*inputs)))


def test_what_follows_the_token_is_computed_alone() -> None:
    """The hidden layer that the token drives far out never sees it; rows of constants stand in front of what attention reads."""
    after = FoldFirstToken(token=TOKEN, factor=4.0).apply(_program(), _context())
    length = str(after.placeholders()[0].meta["val"].shape[1])
    gates = [node for node in after.graph.nodes if node.target is torch.ops.aten.silu.default]
    assert [str(node.meta["val"].shape[1]) == length for node in gates] == [False, True]
    assert operators(after).count("aten.cat") >= 1
    assert any(tuple(tensor.shape) == (1, 1, 32) for tensor in after.tensors.values())


def test_layers_over_flattened_positions_are_layers_over_positions() -> None:
    class Flat(FirstToken):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embedding(ids)
            y = nn.functional.gelu(self.up(x.view(-1, 32)).view(len(ids), -1, 32))
            return self.head(self.norm(x + self.up(y.view(-1, 32)).view(len(ids), -1, 32)))

        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(32, 32)
            self.embedding.weight.data[TOKEN] *= 20

    shapes = {"ids": {0: Dim("batch"), 1: Dim("seq", min=2, max=LONGEST)}}
    program = Pipeline.parse(PREPARE).run(capture(Flat().eval(), sequences(2, 12, 0), dynamic_shapes=shapes)).program
    after = FoldFirstToken(token=TOKEN).apply(program, _context())
    assert after is not program
    assert "aten.view" not in operators(after)
    inputs = sequences(3, 20, 9)
    assert FoldFirstToken.promise.held(difference(program.run(*inputs), after.run(*inputs)))


def test_integers_are_nearer() -> None:
    program, data, inputs = _program(), [sequences(8, 12, seed) for seed in range(4)], sequences(16, 20, 99)
    found = [
        Pipeline.parse(f"{text}quantize-dyadic{{integer_only=true}}").run(program, calibration=data).program
        for text in ("", f"fold-first-token{{token={TOKEN}}}, ")
    ]
    assert [one.stage for one in found] == ["integer", "integer"]
    plain, folded = (difference(program.run(*inputs), one.run(*inputs)).sqnr for one in found)
    assert folded > plain + 5


class Masked(nn.Module):
    """Attention whose mask a model writes itself, and a hidden layer behind it, which leaves the program where it `shows`."""

    def __init__(self, mask: str, causal: bool, shows: bool = False) -> None:
        super().__init__()
        self.mask, self.causal, self.shows = mask, causal, shows
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding, self.mix, self.up, self.down = nn.Embedding(8, 8), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)
            self.head = nn.Linear(8, 8)
        self.embedding.weight.data[1] = 50

    def forward(self, ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.embedding(ids)
        scores, seen = self.mix(x) @ x.transpose(1, 2) / 8, torch.ones(6, 6, dtype=torch.bool).tril(0 if self.causal else 1)
        if self.mask == "is_causal":
            y = nn.functional.scaled_dot_product_attention(self.mix(x), x, x, is_causal=self.causal)
        elif self.mask == "fill":
            y = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ x
        else:
            y = (scores + torch.zeros(6, 6).masked_fill(~seen, torch.finfo(torch.float32).min)).softmax(-1) @ x
        hidden = self.up(x + y).relu()
        result: Tensor = self.head(self.down(hidden))
        return (result, hidden) if self.shows else result


def _masked(mask: str, causal: bool, shows: bool = False) -> tuple[Program, Context]:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randint(2, 8, (4, 6), generator=generator),) for _ in range(2)]
    for (ids,) in batches:
        ids[:, 0] = 1
    program = capture(Masked(mask, causal, shows).eval(), batches[0], dynamic_shapes={"ids": {0: Dim("batch")}})
    return Pipeline.parse(f"fold-positions, {PREPARE}").run(program).program, Context(Evidence(Calibration(batches)))


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_understood(mask: str) -> None:
    program, context = _masked(mask, causal=True)
    after = FoldFirstToken(token=1).apply(program, context)
    assert after is not program
    inputs = context.evidence.calibration.first(program)
    assert FoldFirstToken.promise.held(difference(program.run(*inputs), after.run(*inputs)))
    assert any(tuple(tensor.shape) == (1, 1, 8) for tensor in after.tensors.values())


@pytest.mark.parametrize("mask", MASKS)
def test_attention_that_sees_the_next_token_is_refused(mask: str) -> None:
    program, context = _masked(mask, causal=False)
    FoldFirstToken(token=1).apply(program, context)
    reason = "the first position stretches its input, and stays: it depends on more than the first token"
    assert any(reason in refusal for refusal in refusals(context))


def test_what_leaves_the_program_stays_whole() -> None:
    program, context = _masked("fill", causal=True, shows=True)
    FoldFirstToken(token=1).apply(program, context)
    assert (
        sum(refusal.endswith("the first position stretches its input, and stays: it leaves the program") for refusal in refusals(context))
        == 1
    )


def test_a_model_that_is_not_causal_is_refused() -> None:
    program, context = _program(causal=False), _context()
    assert FoldFirstToken(token=TOKEN, factor=4.0).apply(program, context) is program
    reason = "it depends on more than the first token; causal attention alone leaves it to itself"
    assert sum(refusal.endswith(reason) for refusal in refusals(context)) >= 1


@pytest.mark.parametrize("first", [None, TOKEN + 1])
def test_data_that_begin_otherwise_are_refused(first: int | None) -> None:
    program, context = _program(), _context(first)
    assert FoldFirstToken(token=TOKEN).apply(program, context) is program
    (refusal,) = refusals(context)
    assert refusal.startswith("ids: calibration data begin with ")
    assert refusal.endswith(f" too, not always with {TOKEN}; declare the token that every sequence begins with")


def test_sequences_of_one_are_refused() -> None:
    program, context = _program(shortest=1), _context()
    assert FoldFirstToken(token=TOKEN).apply(program, context) is program
    assert any("sequences may be 1 long; capture the dimension with Dim(min=2)" in refusal for refusal in refusals(context))


def test_where_the_token_stretches_nothing_nothing_is_done() -> None:
    program, context = _program(planted=False), _context()
    with untouched(program):
        assert FoldFirstToken(token=TOKEN, factor=4.0).apply(program, context) is program
    assert refusals(context) == []


def test_a_class_token_needs_no_declaration() -> None:
    before = captured(ClassToken(), 2, 16)
    after = applied(FoldFirstToken(), before, measured(before))
    assert operators(after).count("aten.cat") == operators(before).count("aten.cat") + 1


def test_without_ids_or_layers_it_says_so() -> None:
    program = captured(ClassToken(), 2, 16)
    context = measured(program)
    assert FoldFirstToken(token=3).apply(program, context) is program
    assert refusals(context) == ["x: no input is read as ids by an embedding; leave token out"]
    program = captured(nn.Linear(8, 8), 2, 8)
    context = measured(program)
    assert FoldFirstToken().apply(program, context) is program
    assert refusals(context) == ["input_1: no linear layer reads [batch, positions, channels]"]


def test_an_id_that_the_model_does_not_know_is_an_error() -> None:
    with pytest.raises(PassError, match=rf"fold-first-token: token={VOCABULARY}; the model knows 0 to {VOCABULARY - 1}"):
        FoldFirstToken(token=VOCABULARY).apply(_program(), _context())


@pytest.mark.parametrize(("options", "message"), [("token=-2", "token=-2; an id, or -1 for none"), ("factor=0.5", "factor=0.5; 1 or more")])
def test_bad_options_are_refused(options: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Pipeline.parse(f"fold-first-token{{{options}}}")


def test_without_data_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="this pass needs calibration data"):
        FoldFirstToken(token=TOKEN).apply(_program(), Context())
