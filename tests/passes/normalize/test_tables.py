"""Tables: the same by computing at every size and by what operators keep; no more of them than what differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import Function
from fxpress_ir import Program, capture
from fxpress_passes.normalize import tables
from fxpress_passes.normalize.at_sizes import same_bits
from fxpress_passes.normalize.size_values import frontier, size_values
from fxpress_passes.normalize.tables import Repeat, Table, Tables, Unfit
from lengths import additive, decoder, floats, over_lengths
from torch import Tensor


def tabled(program: Program, max_bytes: int = 1 << 20, max_checked: int = 1 << 30) -> list[Table | Unfit]:
    values = size_values(program.graph)
    made = Tables(program, values, max_bytes, max_checked)
    return [made.of(node) for node in frontier(values)]


@pytest.mark.parametrize("body", [decoder, additive, floats], ids=lambda body: body.__name__)
def test_both_ways_of_checking_give_the_same_tables(body: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    program = over_lengths(body, 4, most=6)
    computed = tabled(program)
    monkeypatch.setattr(tables, "_CHEAP", 0)
    kept = tabled(program)
    assert computed
    for one, two in zip(computed, kept, strict=True):
        assert isinstance(one, Table)
        assert isinstance(two, Table)
        assert one.repeats == two.repeats
        assert same_bits(one.values, two.values)


def test_a_value_that_operators_prove_is_never_computed_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_CHEAP", 0)
    (mask,) = tabled(over_lengths(decoder, 4, most=6), max_checked=0)
    assert isinstance(mask, Table)
    assert torch.equal(mask.values[0], torch.ones(6, 6, dtype=torch.bool).tril())
    (float_,) = tabled(over_lengths(lambda x: x * torch.arange(x.shape[1])[:, None].float().cos(), 4), max_checked=0)
    assert isinstance(float_, Unfit)


def test_what_operators_prove_may_still_be_out_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_CHEAP", 0)
    (found,) = tabled(over_lengths(lambda x: x + torch.arange(7)[torch.arange(x.shape[1])][:, None], 4))
    assert isinstance(found, Unfit)
    assert found.reason == "it cannot be computed at seq=9: index 7 is out of bounds for dimension 0 with size 7"


def only(body: Callable[[Tensor], Any], **options: Any) -> Table:
    (found,) = tabled(over_lengths(body, 4, **options))
    assert isinstance(found, Table)
    return found


def test_one_element_is_kept_where_a_value_repeats() -> None:
    table = only(lambda x: x + torch.arange(x.shape[1])[None, :, None].expand(x.shape[0], -1, 4))
    assert [(repeat.dimension, repeat.block) for repeat in table.repeats] == [(0, 1)]
    assert table.values.shape == (1, 9, 4)
    constant = only(lambda x: x + torch.full(x.shape, 2.5))
    assert [repeat.dimension for repeat in constant.repeats] == [0, 1]
    assert constant.values.tolist() == [[[2.5] * 4]]


def test_one_block_is_kept_where_blocks_repeat() -> None:
    windows = torch.arange(12.0).reshape(3, 4)
    table = only(lambda x: x.repeat(3, 1, 1)[:, 0] + (windows * 2).repeat(x.shape[0], 1))
    (repeat,) = table.repeats
    assert repeat == Repeat(0, 3, repeat.symbol)
    assert torch.equal(table.values, windows * 2)


def test_what_varies_along_a_dimension_that_it_does_not_count_is_computed_along_all_of_it() -> None:
    """``triu`` of a square: no size is read as a number."""
    table = only(lambda x: x @ x.mT + torch.ones(x.shape[1], x.shape[1]).triu(1))
    assert torch.equal(table.values, torch.ones(9, 9).triu(1))


def test_sizes_of_several_dimensions_meet() -> None:
    table = only(lambda x: x + (torch.arange(x.shape[0])[:, None] * 10 + torch.arange(x.shape[1]))[..., None], batches=4)
    assert table.values.shape == (4, 9, 1)
    assert table.values[2, 5] == 25


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (lambda x: x + torch.arange(x.shape[1])[:, None], {"most": None}, "it varies along 'seq', which has no maximum"),
        (lambda x: x.sum() + (torch.arange(x.shape[1]) > 1).sum(), {}, "at seq=8 is not the beginning of what it is at the largest sizes"),
        (lambda x: x + torch.arange(x.shape[1])[:, None].cos(), {"max_bytes": 71}, "arange would have 72 bytes at the largest sizes"),
        (lambda x: x + torch.arange(x.shape[1])[:, None].cos(), {"max_checked": 242}, "cos at every size up to seq=9 is 243 elements"),
        (lambda x: x + torch.arange(7)[torch.arange(x.shape[1])][:, None], {}, "it cannot be computed at seq=9: index 7 is out of bounds"),
    ],
    ids=["no maximum", "no beginning", "bytes", "work", "error"],
)
def test_reasons(body: Callable[[Tensor], Tensor], options: dict[str, Any], reason: str) -> None:
    limits = {name: options.pop(name) for name in ("max_bytes", "max_checked") if name in options}
    (found,) = tabled(over_lengths(body, 4, **options), **limits)
    assert isinstance(found, Unfit)
    assert reason in found.reason
    assert found.way_on


def test_a_derived_dimension_is_not_one_of_an_input() -> None:
    half = torch.export.Dim("half", max=6)
    body = Function(lambda x: x + torch.arange(x.shape[0]))
    program = capture(body, (torch.zeros(4),), dynamic_shapes=({0: 2 * half},))
    (found,) = tabled(program)
    assert isinstance(found, Unfit)
    assert "is not a dimension of an input" in found.reason
