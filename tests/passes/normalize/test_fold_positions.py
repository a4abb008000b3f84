"""f(sizes, constants) ==> constant, cut: exact at every size; refused with a reason where it could not be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from float_programs import applied, captured, operators, refusals, untouched
from fxpress_ir import Edit, Program, capture, text
from fxpress_passes import Context, FoldConstants, FoldPositions, RemoveNoops
from fxpress_passes.contract import difference
from fxpress_passes.pipeline import Pipeline
from lengths import every_length, inputs, named, over_lengths
from torch import Tensor, fx, nn
from torch.nn.functional import scaled_dot_product_attention

sys.path.append(str(Path(__file__).parents[2] / "models"))
from architectures import architecture

_aten = torch.ops.aten
COMPUTED = {"arange", "cumsum", "cos", "sin", "ge", "le", "eq", "lt", "gt", "ne", "diff", "index", "gather", "new_ones", "__and__"}


def folded(body: nn.Module | Callable[[Tensor], Tensor], *width: int, **options: Any) -> Program:
    """The result for `body` over [batch, seq, *width], same bits at every length and several batch sizes."""
    before = over_lengths(body, *width, **options)
    after = applied(FoldPositions(), before)
    for x in every_length(before, options.get("most", 9)):
        assert difference(before.run(*x), after.run(*x)).equal
    assert FoldPositions().apply(after, Context()) is after
    return after


def refused(body: nn.Module | Callable[[Tensor], Tensor], *width: int, item: FoldPositions | None = None, **options: Any) -> list[str]:
    """Why nothing is done for `body`."""
    program, context = over_lengths(body, *width, **options), Context()
    with untouched(program):
        assert (item or FoldPositions()).apply(program, context) is program
    return refusals(context)


class Learned(nn.Module):
    """x + learned[0 .. seq - 1] + types[0], as BERT adds them."""

    def __init__(self) -> None:
        super().__init__()
        self.learned, self.types = nn.Embedding(20, 4), nn.Embedding(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1])
        types = torch.zeros(x.shape[:2], dtype=torch.long)
        return x + self.types(types) + self.learned(positions)


EXPECTED = """\
float program(x: float32[batch, seq, 4])
  %positions.embedding : f32[1, 1, 4]
  %positions.embedding_1 : f32[9, 4]
  sym_size_int_2 = aten.sym_size.int(x, 0) : size
  sym_size_int_3 = aten.sym_size.int(x, 1) : size
  expand_default = aten.expand(%positions.embedding, [sym_size_int_2, sym_size_int_3, -1]) : f32[batch, seq, 4]
  add = aten.add.Tensor(x, expand_default) : f32[batch, seq, 4]
  slice_tensor = aten.slice.Tensor(%positions.embedding_1, 0, 0, sym_size_int_3) : f32[seq, 4]
  add_1 = aten.add.Tensor(add, slice_tensor) : f32[batch, seq, 4]
  return add_1"""


def test_before_and_expected() -> None:
    model = Learned()
    after = folded(model, 4)
    assert text(after) == EXPECTED
    assert torch.equal(after.tensors["positions.embedding"][0], model.types.weight[:1])
    assert torch.equal(after.tensors["positions.embedding_1"], model.learned.weight[:9])
    assert not any(tensor.requires_grad for tensor in after.tensors.values())


def angles(x: Tensor) -> Tensor:
    """Cosine and sine of positions times frequencies, each read twice."""
    frequencies = 10000.0 ** -(torch.arange(0, 4, 2) / 4)
    angle = torch.arange(x.shape[1])[:, None] * frequencies
    turned = torch.cat([angle, angle], -1)
    once = x * turned.cos() + x.flip(-1) * turned.sin()
    return once * turned.cos()[None] + once.flip(-1) * turned.sin()


def test_equal_tables_are_one() -> None:
    program = Pipeline([FoldConstants()]).run(over_lengths(angles, 4)).program
    after = applied(FoldPositions(), program)
    assert sorted(tuple(tensor.shape) for tensor in after.tensors.values()) == [(1, 9, 4), (9, 4), (9, 4)]
    assert not {name.removeprefix("aten.").split(".")[0] for name in operators(after)} & COMPUTED
    assert operators(after).count("aten.slice.Tensor") == 3


def causal(length: Any) -> Tensor:
    return torch.arange(length)[:, None] >= torch.arange(length)[None]


def attention(mask_of: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor]:
    def body(x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return scaled_dot_product_attention(heads, heads * 2, heads + 1, attn_mask=mask_of(x))

    return body


@pytest.mark.parametrize(
    ("mask_of", "arguments"),
    [
        (lambda x: (torch.arange(x.shape[1]) >= 0)[None, None, None].expand(x.shape[0], -1, x.shape[1], -1), (None, 0.0, False)),
        (lambda x: torch.ones(x.shape[0], 1, x.shape[1], x.shape[1], dtype=torch.bool), (None, 0.0, False)),
        (lambda x: causal(x.shape[1]), (None, 0.0, True)),
        (lambda x: causal(x.shape[1])[None, None].expand(x.shape[0], 2, -1, -1), (None, 0.0, True)),
        (lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(), (None, 0.0, True)),
    ],
    ids=["all positions", "ones", "causal", "causal by head", "lower triangle"],
)
def test_needless_masks_are_dropped(mask_of: Callable[[Tensor], Tensor], arguments: tuple[Any, ...]) -> None:
    after = folded(attention(mask_of), 8)
    assert named(after, _aten.scaled_dot_product_attention.default).args[3:] == arguments
    assert not after.tensors


@pytest.mark.parametrize(
    "mask_of",
    [
        lambda x: causal(x.shape[1]) & (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1]) < 4),
        lambda x: torch.arange(x.shape[1]) < 5,
        lambda x: causal(x.shape[1]).T | (torch.arange(x.shape[1]) == 0),
        lambda x: causal(x.shape[1]) | causal(x.shape[1]).T & (torch.arange(x.shape[1]) < 7),
    ],
    ids=["sliding window", "a row", "upper triangle", "almost all"],
)
def test_other_masks_are_tables(mask_of: Callable[[Tensor], Tensor]) -> None:
    after = folded(attention(lambda x: mask_of(x).expand(1, 1, x.shape[1], -1)), 8)
    ((name, table),) = after.tensors.items()
    assert name.startswith("positions.")
    assert table.dtype == torch.bool
    assert named(after, _aten.scaled_dot_product_attention.default).args[3].target in (_aten.slice.Tensor, _aten.expand.default)  # type: ignore[union-attr]


def test_a_mask_that_hides_nothing_among_the_first_positions_alone_stays() -> None:
    """At 3 keys, the example, and at the few that stand for a batch it is all True."""
    after = folded(
        attention(lambda x: (torch.arange(x.shape[1]) < 100)[None, None, None].expand(x.shape[0], 1, x.shape[1], -1)), 8, most=120
    )
    assert named(after, _aten.scaled_dot_product_attention.default).args[3] is not None
    assert after.tensors["positions.expand"].shape == (1, 1, 1, 120)


def test_a_mask_of_three_dimensions_stays_because_bits_would_move() -> None:
    program, context = over_lengths(attention(lambda x: causal(x.shape[1])[None]), 8), Context()
    after = FoldPositions().apply(program, context)
    assert refusals(context) == [
        "scaled_dot_product_attention: without its mask of 3 dimensions another kernel would run; give the mask 4 dimensions"
    ]
    for x in every_length(program, 9):
        assert difference(program.run(*x), after.run(*x)).equal


def test_a_constant_mask_is_seen_through_expansions() -> None:
    """Lengths are fixed: constants are folded before, and only the batch is left to expand along."""

    def body(x: Tensor) -> Tensor:
        mask = causal(5).expand(x.shape[0], 1, 5, 5)
        return scaled_dot_product_attention(x, x * 2, x + 1, attn_mask=mask)

    model = Pipeline([RemoveNoops(), FoldConstants()])
    before = model.run(captured(body, 1, 2, 5, 4)).program
    after = applied(FoldPositions(), before)
    assert named(after, _aten.scaled_dot_product_attention.default).args[3:] == (None, 0.0, True)


def test_as_many_queries_as_keys_make_a_triangle_causal() -> None:
    """Here keys are twice as many: each query sees those up to its own number, as is_causal would have it, but by another shape."""

    def body(x: Tensor) -> Tensor:
        keys = torch.cat([x, x + 1], 1)
        return scaled_dot_product_attention(x[:, None], keys[:, None], keys[:, None] * 2, attn_mask=(causal(6)[:3])[None, None])

    program = captured(body, 1, 3, 4)
    program = Pipeline([FoldConstants()]).run(program).program
    assert FoldPositions().apply(program, Context()) is program


def test_windows_of_images_are_tiled() -> None:
    """Swin's shifted windows: a mask for each window of an image, the same for every image."""
    windows = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))

    def body(x: Tensor) -> Tensor:
        parts = x.reshape(x.shape[0] * 4, 3, 5)
        bias = windows[None].expand(x.shape[0], -1, -1, -1).reshape(-1, 3, 3) * 2.0
        return (parts @ parts.mT + bias).reshape(x.shape[0], -1)

    after = applied(FoldPositions(), captured(body, 1, 4, 15))
    assert [tuple(tensor.shape) for name, tensor in after.tensors.items() if name.startswith("positions")] == [(4, 3, 3)]
    assert [name for name in operators(after) if name in ("aten.expand", "aten.flatten.using_ints")] == [
        "aten.expand",
        "aten.flatten.using_ints",
    ]


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x + torch.full(x.shape[:2], 2.0)[..., None],
        lambda x: x + torch.ones_like(x[..., :1]).cumsum(1),
        lambda x: x * torch.linspace(0, 1, 4) + torch.zeros(x.shape[1], 4),
        lambda x: x + torch.arange(x.shape[1] * 2)[::2, None].float().sqrt(),
        lambda x: torch.cat([x, torch.arange(x.shape[1])[None, :, None].expand(x.shape[0], -1, 4)], -1),
        lambda x: x[:, torch.arange(x.shape[1])],
        lambda x: x + torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1).exp().sum(-1)[:, None],
    ],
    ids=["full", "of another's shape", "repeated", "every other of twice as many", "cat", "index", "float triangle"],
)
def test_values_that_sizes_decide(body: Callable[[Tensor], Tensor]) -> None:
    folded(body, 4)


def test_the_output_may_be_such_a_value() -> None:
    after = folded(lambda x: (x + 1, torch.arange(x.shape[1])), 4)  # type: ignore[arg-type, return-value]
    assert after.tensors["positions.arange"].tolist() == [*range(9)]


def test_a_batch_with_a_maximum_is_a_length_like_another() -> None:
    after = folded(lambda x: x + torch.arange(x.shape[0])[:, None, None] * torch.arange(x.shape[1])[:, None], 4, batches=6)
    assert [tuple(tensor.shape) for tensor in after.tensors.values()] == [(6, 9, 1)]


def test_what_moves_a_constant_stays_as_it_is() -> None:
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert refused(lambda x: x + table[: x.shape[1]].unsqueeze(0).expand(x.shape[0], -1, -1), 4) == []


def test_a_slice_from_a_size_on_is_computed() -> None:
    """The last positions of a table, as many as there are: not the beginning of anything."""
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    (reason,) = refused(lambda x: x + table[9 - x.shape[1] :], 4)
    assert reason == "slice_1: slice_1 at seq=8 is not the beginning of what it is at the largest sizes; it stays computed"


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (
            lambda x: x + torch.arange(x.shape[1])[:, None],
            {"most": None},
            "it varies along 'seq', which has no maximum; capture with Dim('seq', max=N)",
        ),
        (
            lambda x: x + torch.arange(x.shape[0])[:, None, None],
            {},
            "it varies along 'batch', which has no maximum; capture with Dim('batch', max=N)",
        ),
        (lambda x: x * (torch.arange(x.shape[0]) < 100)[:, None, None], {}, "it varies along 'batch', which has no maximum; capture with"),
        (
            lambda x: x + torch.ones(x.shape[0], x.shape[0]).tril(5).sum(-1)[:, None, None],
            {},
            "it varies along 'batch', which has no maximum",
        ),
        (lambda x: x + torch.ones(x.shape[0]).softmax(0).gt(0.01)[:, None, None], {}, "it varies along 'batch', which has no maximum"),
        (lambda x: x + torch.full((4,), x.shape[0]), {}, "it varies along 'batch', which has no maximum"),
        (lambda x: x + (torch.arange(x.shape[1]) - x.shape[1])[:, None], {}, "at seq=8 is not the beginning of what it is at the largest"),
        (lambda x: x / torch.arange(x.shape[1]).sum(), {}, "at seq=8 is not the beginning of what it is at the largest sizes"),
        (lambda x: x + torch.arange(x.shape[1]).flip(0)[:, None], {}, "at seq=8 is not the beginning"),
        (
            lambda x: x + torch.arange(10)[torch.arange(x.shape[1]) + 3][:, None],
            {},
            "it cannot be computed at seq=9: index 10 is out of bounds",
        ),
    ],
    ids=["length", "batch", "compared", "triangle", "softmax", "number", "from the end", "sum", "flipped", "out of bounds"],
)
def test_refusals(body: Callable[[Tensor], Tensor], options: dict[str, Any], reason: str) -> None:
    (found,) = refused(body, 4, **options)
    assert reason in found


def test_random_numbers_and_unwritten_memory_are_not_folded() -> None:
    assert refused(lambda x: x + torch.rand(x.shape[1], 1) * 0 + torch.empty(x.shape[1], 1) * 0, 4) == []


def test_large_values_stay() -> None:
    body = attention(lambda x: causal(x.shape[1]))
    (reason,) = refused(body, 8, item=FoldPositions(max_bytes=80))
    assert reason == "ge: ge would have 81 bytes at the largest sizes; give a smaller maximum, or max_bytes=81"


def test_what_would_take_too_long_to_check_stays() -> None:
    (reason,) = refused(lambda x: x + torch.arange(x.shape[1])[:, None].float().cos(), 4, item=FoldPositions(max_checked=323))
    assert reason == "cos: cos at every size up to seq=9 is 324 elements; give a smaller maximum, or max_checked=324"


def test_others_are_folded_beside_a_refused_one() -> None:
    program, context = over_lengths(lambda x: x + torch.arange(x.shape[1])[:, None] + torch.arange(x.shape[0])[:, None, None], 4), Context()
    after = applied(FoldPositions(), program, context)
    assert [refused.node for refused in context.refusals] == ["unsqueeze_2"]
    assert sorted(after.tensors) == ["positions.unsqueeze"]


def test_sizes_come_from_the_input_where_no_operator_gives_them() -> None:
    """Shapes alone say how long ones_like is."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        ones = edit.call(_aten.ones_like.default, x)
        return edit.call(_aten.add.Tensor, x, edit.call(_aten.cumsum.default, ones, 1))

    program = over_lengths(lambda x: x + 1, 4)
    edit = program.edit()
    old = edit.here(program.outputs()[0])
    with edit.graph.inserting_before(old):
        new = body(edit, edit.here(program.placeholders()[0]))
    edit.replace(old, new)
    after = applied(FoldPositions(), edit.finish())
    assert operators(after) == ["aten.sym_size.int", "aten.sym_size.int", "aten.slice.Tensor", "aten.expand", "aten.add.Tensor"]
    assert after.tensors["positions.cumsum_default"].flatten()[::4].tolist() == [*map(float, range(1, 10))]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "qwen2"])
def test_nothing_that_sizes_decide_is_left_of_an_architecture(name: str) -> None:
    model, chosen = architecture(name)
    dynamic = {chosen.name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=64)}}
    before = Pipeline([RemoveNoops()]).run(capture(model, chosen.inputs(1), dynamic_shapes=dynamic)).program
    context = Context()
    after = FoldPositions().apply(before, context)
    assert refusals(context) == []
    assert not {found.removeprefix("aten.").split(".")[0] for found in operators(after)} & COMPUTED
    masks = [node.args[3:] for node in after.graph.nodes if node.target is _aten.scaled_dot_product_attention.default]
    assert masks == [(None, 0.0, name != "bert")] * 2
    for batch, length in ((1, 1), (3, 2), (2, 31), (1, 64)):
        x = inputs(before, batch, length)
        assert difference(before.run(*x), after.run(*x)).equal
    assert FoldPositions().apply(after, Context()) is after


def test_an_architecture_of_fixed_length() -> None:
    model, chosen = architecture("vit")
    program = capture(model, chosen.inputs(1), dynamic_shapes=chosen.dynamic_shapes)
    before, context = Pipeline([RemoveNoops(), FoldConstants()]).run(program).program, Context()
    after = FoldPositions().apply(before, context)
    assert refusals(context) == []
    assert after is not before
    assert named(after, _aten.scaled_dot_product_attention.default).args[3:] == (None, 0.0, False)
    for batch in (1, 3):
        x = chosen.inputs(batch)
        assert difference(before.run(*x), after.run(*x)).equal
