"""Scores, probabilities and their product with values are one operator, with exact multipliers and any mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from float_programs import Function, captured
from fxpress_ir import Program, capture, verify
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.attention import UNSEEN, exponentials
from fxpress_passes.quantize.place_quantizers import place
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.recognized import Recognized
from hypothesis import given
from hypothesis import strategies as st
from quantized import Stages, quantized, targets
from sketch import Found, Sketch, attended
from torch import Tensor, fx, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

_aten, _fxp = torch.ops.aten, torch.ops.fxp
ADD, MUL, DIV, MATMUL = _aten.add.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.matmul.default
TURN, SOFTMAX, WHERE = _aten.transpose.int, _aten.softmax.int, _aten.where.ScalarOther
SHAPE = (2, 4, 4)


def _inputs(*shape: int) -> tuple[Sketch, fx.Node, fx.Node]:
    """A sketch with queries x, keys and values."""
    sketch = Sketch(*(shape or SHAPE))
    return sketch, sketch.input("k", *(shape or SHAPE)), sketch.input("v", *(shape or SHAPE))


def test_attention_is_one_value() -> None:
    sketch, k, v = _inputs()
    bias, mask = sketch.tensor(4, 4), sketch.tensor(4, 4, dtype=torch.bool)
    whole = attended(sketch, sketch.x, k, v, factor=0.25, bias=bias, mask=mask)
    recognition = sketch.recognition(whole)
    found = recognition.found[whole]
    assert isinstance(found, Recognized)
    assert (found.kind, found.operands, found.factor) == ("attention", (sketch.x, k, v), 0.25)
    assert (found.bias, found.masks) == (bias, (mask,))
    assert found.scores is not None
    assert found.scores.target is ADD
    assert found.parts[-1].target is MATMUL
    assert recognition.found == {whole: found}
    assert recognition.inside == {node for node in sketch.graph.nodes if node.op == "call_function"} - {whole}


def _scored(body: Callable[[Sketch, fx.Node], fx.Node]) -> tuple[Sketch, Found]:
    """Attention with the scores that `body` makes of the product."""
    sketch, k, v = _inputs()
    scores = body(sketch, sketch.call(MATMUL, sketch.x, sketch.call(TURN, k, -2, -1)))
    (found,) = sketch.found(sketch.call(MATMUL, sketch.call(SOFTMAX, scores, -1), v))
    return sketch, found


@pytest.mark.parametrize(
    ("body", "factor"),
    [
        (lambda s, x: x, 1.0),
        (lambda s, x: s.call(DIV, x, 8), 0.125),
        (lambda s, x: s.call(MUL, s.call(DIV, x, 2.0), 3), 1.5),
        (lambda s, x: s.call(ADD, s.tensor(4, 4), s.call(MUL, x, 0.5)), 0.5),
        (lambda s, x: s.call(ADD, s.call(MUL, x, 0.5), s.call(_aten.unsqueeze.default, s.tensor(4, 4), 0)), 0.5),
    ],
)
def test_scores_may_be_scaled_and_added_to_in_any_order(body: Callable[[Sketch, fx.Node], fx.Node], factor: float) -> None:
    _, found = _scored(body)
    assert isinstance(found, Recognized)
    assert (found.kind, found.factor) == ("attention", factor)
    assert (found.bias is None) == (found.scores is None or found.scores.target is not ADD)


REFUSED: dict[str, Callable[[Sketch, fx.Node], fx.Node]] = {
    "what is added to its scores is computed": lambda s, x: s.call(ADD, x, s.call(_aten.relu.default, s.x)),
    "an input is added to its scores as floats, not as a boolean or integer mask": lambda s, x: s.call(ADD, x, s.x),
    "several constants are added to its scores": lambda s, x: s.call(ADD, s.call(ADD, x, s.tensor(4, 4)), s.tensor(4, 1)),
    "its mask is larger than its scores": lambda s, x: s.call(WHERE, s.tensor(3, 2, 4, 4, dtype=torch.bool), x, -math.inf),
    "its scores come from aten.relu.default": lambda s, x: s.call(_aten.relu.default, x),
    "its scores come from aten.add.Tensor": lambda s, x: s.call(ADD, x, 1.0),
    "its scores come from aten.where.ScalarOther": lambda s, x: s.call(WHERE, s.tensor(4, 4, dtype=torch.bool), x, UNSEEN + 1),
    "its scores are multiplied by -0.5": lambda s, x: s.call(MUL, x, -0.5),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_integer_form_says_why(reason: str) -> None:
    assert _scored(REFUSED[reason])[1] == reason


def _masked(mask: Callable[[Sketch], fx.Node]) -> Found:
    return _scored(lambda s, x: s.call(WHERE, mask(s), x, -math.inf))[1]


def test_masks_hide_one_after_the_other() -> None:
    rows, all_ = (lambda s: s.tensor(4, 1, dtype=torch.bool)), (lambda s: s.tensor(4, 4, dtype=torch.bool))
    _, found = _scored(lambda s, x: s.call(WHERE, all_(s), s.call(WHERE, rows(s), s.call(MUL, x, 0.5), -math.inf), UNSEEN))
    assert isinstance(found, Recognized)
    assert [tuple(mask.meta["val"].shape) for mask in found.masks] == [(4, 4), (4, 1)]
    assert (found.factor, len(found.parts)) == (0.5, 6)


def _boolean(s: Sketch) -> fx.Node:
    return s.tensor(4, 4, dtype=torch.bool)


def _term(s: Sketch, mask: fx.Node, number: float = -1e4) -> fx.Node:
    return s.call(_aten.where.Scalar, mask, 0.0, number)


def _triangle(s: Sketch) -> fx.Node:
    return s.call(_aten.tril.default, s.call(_aten.ones.default, [4, 4], dtype=torch.bool))


UNSEEN_: dict[str, tuple[Any, Callable[[Sketch, fx.Node], fx.Node]]] = {
    "zero": (_aten._safe_softmax.default, lambda s, x: s.call(WHERE, _boolean(s), x, -math.inf)),
    "mean": (_aten._safe_softmax.default, lambda s, x: s.call(WHERE, _boolean(s), x, -1e9)),
    "mean ": (SOFTMAX, lambda s, x: s.call(WHERE, _boolean(s), x, -math.inf)),
    "unmasked": (SOFTMAX, lambda s, x: s.call(WHERE, _triangle(s), s.call(ADD, x, _term(s, _boolean(s))), -1e9)),
    "its masks hide keys with numbers and with -inf": (
        _aten._safe_softmax.default,
        lambda s, x: s.call(WHERE, _boolean(s), s.call(WHERE, _boolean(s), x, -math.inf), -1e9),
    ),
    "a mask of -10000 is added to its scores and other masks hide keys too": (
        SOFTMAX,
        lambda s, x: s.call(WHERE, _boolean(s), s.call(ADD, x, _term(s, _boolean(s))), -1e9),
    ),
}


@pytest.mark.parametrize("wanted", UNSEEN_)
def test_what_a_query_that_sees_nothing_gives_is_read_off_the_softmax_and_its_masks(wanted: str) -> None:
    softmax, body = UNSEEN_[wanted]
    sketch, k, v = _inputs()
    scores = body(sketch, sketch.call(MATMUL, sketch.x, sketch.call(TURN, k, -2, -1)))
    (found,) = sketch.found(sketch.call(MATMUL, sketch.call(softmax, scores, -1), v))
    assert (found.unseen if isinstance(found, Recognized) else found) == wanted.strip()


def test_a_mask_is_given_or_the_lower_triangle_of_ones() -> None:
    def ones(s: Sketch) -> fx.Node:
        return s.call(_aten.ones.default, [4, 4], dtype=torch.bool)

    given_: list[Callable[[Sketch], fx.Node]] = [
        lambda s: s.tensor(4, 4, dtype=torch.bool),
        lambda s: s.call(_aten.expand.default, s.call(_aten.unsqueeze.default, s.tensor(4, dtype=torch.bool), 0), [4, -1]),
        lambda s: s.call(_aten.tril.default, ones(s)),
    ]
    assert [isinstance(_masked(mask), Recognized) for mask in given_] == [True] * 3
    computed: list[Callable[[Sketch], fx.Node]] = [
        lambda s: s.call(_aten.tril.default, s.tensor(4, 4, dtype=torch.bool)),
        lambda s: s.call(_aten.tril.default, ones(s), 1),
        lambda s: s.call(_aten.gt.Scalar, s.tensor(4, 4), 0),
    ]
    assert [_masked(mask) for mask in computed] == ["its mask is computed"] * 3


def test_probabilities_along_another_dimension_and_those_that_others_read_are_refused() -> None:
    sketch, k, v = _inputs()
    scores = sketch.call(MATMUL, sketch.x, k)
    other = sketch.call(MATMUL, sketch.call(SOFTMAX, scores, 1), v)
    assert sketch.found(other) == ["its softmax is not over the last dimension"]
    sketch, k, v = _inputs()
    whole = attended(sketch, sketch.x, k, v)
    found = sketch.found(whole, whole.all_input_nodes[0])
    assert found[0] == "its scores or probabilities are read by others too"


def test_a_softmax_of_masked_scores_and_one_of_a_refused_attention_stay_in_floats() -> None:
    sketch, k, v = _inputs()
    masked = sketch.call(SOFTMAX, sketch.call(WHERE, _boolean(sketch), sketch.call(MATMUL, sketch.x, k), -1e9), -1)
    scores = sketch.call(_aten.relu.default, sketch.call(MATMUL, sketch.x, k))
    plain = sketch.call(SOFTMAX, scores, -1)
    found = sketch.found(masked, plain, sketch.call(MATMUL, plain, v))
    refused = "its scores come from aten.relu.default"
    assert found == ["a mask hides some of its operand, and it is no part of an attention", refused, refused]


def test_a_product_of_no_probabilities_is_none() -> None:
    sketch, k, _ = _inputs()
    table = sketch.call(MATMUL, sketch.call(_aten.sigmoid.default, sketch.x), k)
    turned = sketch.call(MATMUL, k, sketch.call(SOFTMAX, sketch.x, -1))
    kinds = [found.kind for found in sketch.found(table, turned) if isinstance(found, Recognized)]
    assert kinds == ["matmul", "matmul"]


def test_constant_queries_are_refused() -> None:
    sketch, k, v = _inputs()
    assert sketch.found(attended(sketch, sketch.tensor(*SHAPE), k, v)) == ["its operand w is constant"]


def test_queries_may_be_a_moved_constant_which_is_a_value() -> None:
    sketch, k, v = _inputs()
    queries = sketch.call(_aten.expand.default, sketch.tensor(1, 4, 4), [2, -1, -1])
    whole = attended(sketch, queries, k, v)
    recognition = sketch.recognition(whole)
    found = recognition.found[whole]
    assert isinstance(found, Recognized)
    assert (found.kind, found.operands) == ("attention", (queries, k, v))
    assert recognition.found[queries] == Recognized("move", tuple(queries.all_input_nodes))
    assert queries not in recognition.inside


def test_keys_that_were_turned_for_others_too_are_values() -> None:
    sketch, k, v = _inputs()
    turned = sketch.call(TURN, k, -1, -2)
    whole = sketch.call(MATMUL, sketch.call(SOFTMAX, sketch.call(MATMUL, sketch.x, turned), -1), v)
    recognition = sketch.recognition(whole, turned)
    found = recognition.found[whole]
    assert isinstance(found, Recognized)
    assert found.operands == (sketch.x, turned, v)
    assert turned not in recognition.inside


@given(st.floats(1e-4, 2.0), st.sampled_from([255, 1 << 14]))
def test_a_table_holds_rounded_exponentials(scale: float, one: int) -> None:
    table = exponentials(scale, one)
    assert table.shape == (256,)
    assert int(table[0]) == one
    for difference_, entry in enumerate(table.tolist()):
        assert abs(one * math.exp(-scale * difference_) - entry) <= 0.5 + 1e-9


class Heads(nn.Module):
    """Two heads of attention of [batch, length, 16]; the keyword arguments are those of the operator."""

    def __init__(self, mask: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(8)
            self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.register_buffer("mask", mask)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in self.parts)
        mixed = scaled_dot_product_attention(q, k, v, self.mask, **self.options)
        return mixed.transpose(1, 2).flatten(2)


READY = "decompose-unflatten, decompose-attention, separate-masks"
SEEN = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.4
SEEN.fill_diagonal_(True)
NUMBERS = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(2))


def _context(seed: int = 0) -> Context:
    batches = [(2 * torch.randn(8, 6, 16, generator=torch.Generator().manual_seed(seed + step)),) for step in range(4)]
    return Context(Evidence(Calibration(batches)))


def _stages(mask: Tensor | None = None, **options: Any) -> Stages:
    program = Pipeline.parse(READY).run(captured(Heads(mask, **options), 2, 6, 16)).program
    return quantized(program, _context(), integer_only=True)


def _attention(stages: Stages) -> dict[str, Any]:
    (node,) = stages.integer.graph.find_nodes(op="call_function", target=_fxp.attention.default)
    return arguments(node)


MASKS: dict[str, tuple[dict[str, Any], bool, bool, bool]] = {
    "none": ({}, False, False, False),
    "boolean": ({"mask": SEEN}, True, False, False),
    "all true": ({"mask": torch.ones(6, 6, dtype=torch.bool)}, False, False, False),
    "causal": ({"is_causal": True}, False, False, True),
    "numbers": ({"mask": NUMBERS}, False, True, False),
    "zeros": ({"mask": torch.zeros(6, 6)}, False, False, False),
    "-100": ({"mask": torch.where(SEEN, 0.0, -100.0)}, True, False, False),
    "numbers and -100": ({"mask": torch.where(SEEN, NUMBERS, -100.0)}, True, True, False),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    """What hides keys is a boolean, what only adds numbers a bias of the sums, what says nothing is dropped."""
    options, masked, biased, causal = MASKS[name]
    stages = _stages(**options)
    named = _attention(stages)
    assert (named["mask"] is not None, named["bias"] is not None, named["causal"]) == (masked, biased, causal)
    assert targets(stages.integer).count("attention") == 1
    if masked:
        assert torch.equal(stages.integer.tensors[str(named["mask"].target)].reshape(-1, 6, 6)[0], SEEN)
    program = captured(Heads(**options), 2, 6, 16)
    for batch in (1, 3):
        x = 2 * torch.randn(batch, 6, 16, generator=torch.Generator().manual_seed(50 + batch))
        assert difference(program.run(x), stages.integer.run(x)).sqnr >= 28
        assert difference(stages.simulated.run(x), stages.integer.run(x)).sqnr >= 32


def _scales(stages: Stages) -> dict[str, float]:
    """The scales of the quantised values, by the operator that they come from."""
    fakes = stages.simulated.graph.find_nodes(op="call_function", target=_fxp.fake_quantize.default)
    return {arguments(fake)["x"].name: arguments(fake)["scale"] for fake in fakes}


def test_multipliers_are_exact() -> None:
    stages = _stages(mask=NUMBERS, scale=0.3)
    scales, named = _scales(stages), _attention(stages)
    query, keys, value, scores, result = (scales[site] for site in ("linear", "linear_1", "linear_2", "add_tensor", "matmul_default_1"))
    assert named["b"] / 2 ** named["c"] == pytest.approx(query * keys * 0.3 / scores, rel=1e-12)
    assert named["ob"] / 2 ** named["oc"] == pytest.approx(value / 256 / result, rel=1e-12)
    bias = stages.integer.tensors[str(named["bias"].target)]
    assert torch.equal(bias, torch.round(NUMBERS.double() / (query * keys * 0.3)).to(torch.int32))
    table = stages.integer.tensors[str(named["table"].target)]
    assert table.dtype == torch.uint8
    assert torch.equal(table.double(), exponentials(scores, 255))


def test_a_score_of_a_key_that_is_not_seen_changes_no_bit() -> None:
    """Later keys are hidden, however large they are."""
    integer = _stages(is_causal=True).integer
    x = torch.randn(3, 6, 16)
    longer = x.clone()
    longer[:, 4:] *= 10
    found, other = integer.run(x)[0], integer.run(longer)[0]
    assert torch.equal(found[:, :4], other[:, :4])
    assert not torch.equal(found[:, 4:], other[:, 4:])


def test_a_mask_may_be_an_input() -> None:
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 6, 16), torch.ones(2, 1, 6, 6, dtype=torch.bool))
    program = Pipeline.parse(READY).run(capture(_WithMask().eval(), example, dynamic_shapes=({0: batch}, {0: batch}))).program
    data = [(2 * torch.randn(8, 6, 16), SEEN.expand(8, 1, 6, 6)) for _ in range(4)]
    stages = quantized(program, Context(Evidence(Calibration(data))), integer_only=True)
    assert _attention(stages)["mask"].op == "placeholder"
    x = 2 * torch.randn(3, 6, 16)
    for seen in (SEEN, SEEN | SEEN.T, torch.ones(6, 6).tril() > 0):
        given_ = (x, seen.expand(3, 1, 6, 6))
        assert difference(program.run(*given_), stages.integer.run(*given_)).sqnr >= 28


class _WithMask(nn.Module):
    """`Heads` with a mask that is given."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = Heads()

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in self.heads.parts)
        return scaled_dot_product_attention(q, k, v, seen)


def _written(x: Tensor) -> Tensor:
    """Keys that are no transposition: [batch, features, keys] from a permutation of four dimensions."""
    heads = torch.tanh(x).unflatten(-1, (2, 8))
    q, k, v = heads.permute(0, 2, 1, 3), heads.permute(0, 2, 3, 1), torch.sigmoid(heads).permute(0, 2, 1, 3)
    return (q @ k).softmax(-1) @ v


def test_keys_that_are_not_transposed_are() -> None:
    program = Pipeline.parse(READY).run(captured(Function(_written), 2, 6, 16)).program
    stages = quantized(program, _context(), integer_only=True)
    keys = _attention(stages)["k"]
    assert (keys.target, keys.args[1:]) == (TURN, (-2, -1))
    assert _attention(stages)["dtype"] == torch.uint8  # an average of unsigned values
    x = 2 * torch.randn(3, 6, 16)
    assert difference(program.run(x), stages.integer.run(x)).sqnr >= 35


def _direct(x: Tensor) -> Tensor:
    y = layer_norm(x, (16,))
    return layer_norm(y + (y @ y.transpose(1, 2) * 0.25).softmax(-1) @ y, (16,))


@pytest.mark.parametrize("bits", [8, 16])
def test_attention_reads_values_of_16_bits_in_8_and_its_result_may_have_16(bits: int) -> None:
    program = captured(Function(_direct), 2, 6, 16)
    stages = quantized(program, _context(), integer_only=True, activation_bits=bits)
    named = _attention(stages)
    assert {named[operand].meta["val"].dtype for operand in ("q", "k", "v")} == {torch.int8}
    assert (named["dtype"], named["k"]) == (torch.int16, named["q"])
    x = 2 * torch.randn(3, 6, 16)
    assert difference(program.run(x), stages.integer.run(x)).sqnr >= 40


def test_a_result_of_16_bits_is_shifted_by_at_most_15() -> None:
    """A multiplier below a half would take 16 places in 8 bits."""
    program = captured(Function(_direct), 2, 6, 16)
    plan = PlaceQuantizers(integer_only=True).decide(program, _context())
    coarse = replace(plan.activations["matmul_1"], scale=4 * plan.activations["matmul_1"].scale)
    integer = ToInteger().apply(place(program, replace(plan, activations={**plan.activations, "matmul_1": coarse})), Context())
    (node,) = integer.graph.find_nodes(op="call_function", target=_fxp.attention.default)
    assert arguments(node)["oc"] == 15
    assert verify(integer).stage == "integer"


def test_scores_without_a_quantizer_are_an_error() -> None:
    program: Program = Pipeline.parse(READY).run(captured(Heads(), 2, 6, 16)).program
    plan = PlaceQuantizers().decide(program, _context())
    without = replace(plan, activations={site: grid for site, grid in plan.activations.items() if site != "mul_tensor"})
    with pytest.raises(PassError) as caught:
        ToInteger().apply(place(program, without), Context())
    assert str(caught.value) == "to-integer, node matmul_default_1: its scores are not quantised; quantise them"


class Windows(nn.Module):
    """Swin's attention in three windows an image, [batch, 3, 6, 16]: a bias of positions, and a mask of each window."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = Heads()
        self.register_buffer("bias", NUMBERS)
        self.register_buffer("mask", torch.where(torch.stack([SEEN, SEEN.T, torch.ones_like(SEEN)]), 0.0, -100.0))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x.flatten(0, 1)).unflatten(-1, (2, 8)).transpose(1, 2) for part in self.heads.parts)
        masks = self.mask.unsqueeze(1).unsqueeze(0).expand(x.shape[0], -1, -1, -1, -1).reshape(-1, 1, 6, 6)
        mixed = scaled_dot_product_attention(q, k, v, self.bias + masks)
        return mixed.transpose(1, 2).flatten(2)


def _windows() -> tuple[Program, Stages]:
    program = captured(Windows(), 2, 3, 6, 16)
    data = [(2 * torch.randn(4, 3, 6, 16, generator=torch.Generator().manual_seed(step)),) for step in range(4)]
    ready = Pipeline.parse(f"fold-constants, {READY}").run(program).program
    return program, quantized(ready, Context(Evidence(Calibration(data))), integer_only=True)


def test_windows_with_a_bias_and_masks_of_their_own() -> None:
    """The mask is moved as the constant was that it comes from, at every batch size; the bias stays numbers."""
    program, stages = _windows()
    named, tensors = _attention(stages), stages.integer.tensors
    mask = named["mask"]
    assert [node.target for node in (mask, mask.args[0])] == [_aten.reshape.default, _aten.expand.default]
    assert torch.equal(tensors[str(mask.args[0].args[0].target)].flatten(0, 2), torch.stack([SEEN, SEEN.T, torch.ones_like(SEEN)]))
    assert (tensors[str(named["bias"].target)].shape, tensors[str(named["bias"].target)].dtype) == (NUMBERS.shape, torch.int32)
    for batch in (1, 3):
        x = 2 * torch.randn(batch, 3, 6, 16, generator=torch.Generator().manual_seed(60 + batch))
        assert difference(program.run(x), stages.integer.run(x)).sqnr >= 25
        assert difference(stages.simulated.run(x), stages.integer.run(x)).sqnr >= 32


def test_windows_are_recognised_alike_with_quantizers() -> None:
    _, stages = _windows()
    for program in (stages.float, stages.simulated):
        (found,) = [what for what in recognize(program.graph).found.values() if isinstance(what, Recognized) and what.kind == "attention"]
        (mask,) = found.masks
        assert found.bias is not None
        assert found.scores is not None
        assert (mask.target, found.bias.op, found.scores.target) == (_aten.reshape.default, "get_attr", ADD)


def _scores_step(mask: Tensor) -> float:
    fakes = _stages(mask=mask).simulated.graph.find_nodes(op="call_function", target=_fxp.fake_quantize.default)
    (step,) = [arguments(fake)["scale"] for fake in fakes if arguments(fake)["x"].target is ADD]
    return float(step)


def test_a_mask_leaves_the_steps_of_the_scores_as_they_are() -> None:
    """A grid that spans -100 would have steps of 0.8."""
    assert _scores_step(torch.where(SEEN, NUMBERS, -100.0)) <= 1.1 * _scores_step(NUMBERS) < 0.1


def test_a_moved_bias_is_moved_in_integers() -> None:
    """A table of positions, cut to the keys that there are."""
    sequence = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", min=2, max=5)},)
    program = capture(_Cut().eval(), (torch.zeros(2, 4, 16),), dynamic_shapes=sequence)
    ready = Pipeline.parse(READY).run(program).program
    data = [(2 * torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(step)),) for step in range(4)]
    stages = quantized(ready, Context(Evidence(Calibration(data))), integer_only=True)
    bias = _attention(stages)["bias"]
    assert (bias.target, bias.meta["val"].dtype) == (_aten.slice.Tensor, torch.int32)
    assert targets(stages.simulated).count("fake_quantize") == 6  # x, q, k, v, the scores and the result, but no table
    for length in (2, 5):
        x = 2 * torch.randn(3, length, 16, generator=torch.Generator().manual_seed(length))
        assert difference(program.run(x), stages.integer.run(x)).sqnr >= 28


class _Cut(nn.Module):
    """`Heads` with a bias that is as long as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = Heads()
        self.register_buffer("bias", NUMBERS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in self.heads.parts)
        return scaled_dot_product_attention(q, k, v, self.bias[:, :, : x.shape[1], : x.shape[1]])
