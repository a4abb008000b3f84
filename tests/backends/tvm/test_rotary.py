"""Rotary embeddings: halves that fill vectors and that do not, every rank and width; tables that are moved; symbolic lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Runner, Target
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from several import several
from support import aten, attending_net, built, fxp, turned_by_length
from torch import Tensor, fx
from tvm_cases import S8, U8, Body, Check, Limits, convolution

SHORT = (-32768, 32767, torch.int16)


def angles(edit: Edit, name: str, shape: Sequence[int], most: int) -> fx.Node:
    """A table of extremes and anything, one more at each end than it needs."""
    generator = torch.Generator().manual_seed(len(name) + sum(shape))
    values = torch.randint(-most, most + 1, tuple(shape), generator=generator)
    ends = torch.randint(0, 3, tuple(shape), generator=generator)
    return edit.add_tensor(name, torch.where(ends == 0, most, torch.where(ends == 1, -most, values)).to(torch.int16))


def turned(limits: Limits, shape: Sequence[int], *, c: int = 14, most: int = 16384, then: Body | None = None) -> Body:
    """Tables of one shape, as many dimensions as x."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        tables = [angles(edit, name, shape, most) for name in ("cosine", "sine")]
        y = edit.call(fxp.rotary.default, x, *tables, c, *limits)
        return y if then is None else then(edit, y)

    return body


def test_rotary(same_on_extremes: Check) -> None:
    """Halves of 1, 4, 8, 16, 19 and 32; 8 and 16 bits; tables for every place, one row, one column, one number; an image's readers."""
    convolved = convolution((8, 9, 1, (4, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 1, S8)
    cases: Sequence[tuple[tuple[int, ...], torch.dtype, Body]] = (
        ((2,), torch.int8, turned(S8, (1, 2), c=1)),
        ((8,), torch.int16, turned(SHORT, (1, 8))),
        ((3, 16), torch.int8, turned(U8, (1, 3, 16))),
        ((3, 32), torch.int8, turned(S8, (1, 3, 32), most=32767, c=15)),
        ((3, 38), torch.int16, turned(S8, (1, 3, 38), c=15)),
        ((2, 3, 8), torch.int8, turned(S8, (1, 1, 3, 8))),
        ((2, 3, 64), torch.int16, turned(SHORT, (1, 1, 3, 64), c=13)),
        ((2, 3, 8), torch.int8, turned(S8, (1, 2, 1, 8))),
        ((2, 3, 32), torch.int8, turned((-7, 100, torch.int8), (1, 1, 3, 1))),
        ((2, 3, 6), torch.int8, turned(S8, (1, 1, 1, 1), c=13)),
        ((8, 4, 6), torch.int8, turned(S8, (1, 1, 4, 6), then=convolved)),
    )
    same_on_extremes(cases)


@st.composite
def rotations(draw: st.DrawFn) -> tuple[tuple[int, ...], torch.dtype, Body]:
    """Any shape of up to 4 dimensions, tables of size 1 along any of them, and the shifts, ranges and angles that are proved."""
    shape = (*draw(st.lists(st.integers(1, 5), max_size=2)), 2 * draw(st.integers(1, 40)))
    dtype = draw(st.sampled_from([torch.int8, torch.int16]))
    table = (1, *(draw(st.sampled_from([1, size])) for size in shape))
    limits: Limits = draw(st.sampled_from([S8, U8, SHORT, (-3, 90, torch.int8), (-1, 0, torch.int16)]))
    most = draw(st.sampled_from([1, 181, 16383] if dtype == torch.int16 else [1, 16384, 32767]))
    return shape, dtype, turned(limits, table, c=draw(st.integers(1, 15)), most=most)


@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
@given(cases=st.lists(rotations(), min_size=12, max_size=12))
def test_any_rotation(
    cases: Sequence[tuple[tuple[int, ...], torch.dtype, Body]],
    side_by_side: Callable[..., Program],
    loaded: Callable[..., Runner],
    targets: Mapping[str, Target],
) -> None:
    """A dozen in one build, which is what takes long; at the ends of the types, between them and next to 0."""
    program, generator = side_by_side(cases), torch.Generator().manual_seed(0)
    with TemporaryDirectory() as folder:
        runner = loaded(program, targets["tvm:x86-64"], Path(folder))
        for batch in (1, 3):
            inputs = [_anywhere(generator, (batch, *shape), dtype) for shape, dtype, _ in cases]
            for result, wanted in zip(runner.run([x.numpy() for x in inputs]), program.run(*inputs), strict=True):
                assert result.dtype == wanted.numpy().dtype
                np.testing.assert_array_equal(result, wanted.numpy())


def _anywhere(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    values = torch.stack(
        [
            torch.full(tuple(shape), limits.min),
            torch.full(tuple(shape), limits.max),
            torch.randint(-2, 3, tuple(shape), generator=generator),
            torch.randint(limits.min, limits.max + 1, tuple(shape), generator=generator),
        ]
    )
    return values.gather(0, torch.randint(0, 4, (1, *shape), generator=generator))[0].to(dtype)


def heads(edit: Edit, x: fx.Node, width: int) -> fx.Node:
    size = [edit.call(aten.sym_size.int, x, dimension) for dimension in (0, 1)]
    return edit.call(aten.transpose.int, edit.call(aten.view.default, x, [*size, -1, width]), 1, 2)


def cut(edit: Edit, name: str, width: int, length: fx.Node) -> fx.Node:
    """The first rows of a table [40, width] as [1, 1, seq, width]."""
    rows = edit.call(aten.slice.Tensor, angles(edit, name, (40, width), 16384), 0, 0, length)
    return edit.call(aten.unsqueeze.default, edit.call(aten.unsqueeze.default, rows, 0), 1)


def of_heads(width: int, count: int) -> Program:
    """[batch, seq, count * width], turned head by head by a table's first rows, and put together again."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        length = edit.call(aten.sym_size.int, x, 1)
        tables = [cut(edit, name, width, length) for name in ("cosine", "sine")]
        y = edit.call(fxp.rotary.default, heads(edit, x, width), *tables, 14, *S8)
        return edit.call(aten.flatten.using_ints, edit.call(aten.transpose.int, y, 1, 2), 2)

    return several([(("batch", "seq", count * width), torch.int8)], body, {"seq": 40})


def extreme(batch: int, length: int, width: int, dtype: torch.dtype = torch.int8) -> Tensor:
    generator, limits = torch.Generator().manual_seed(length), torch.iinfo(dtype)
    values = torch.randint(limits.min, limits.max + 1, (batch, length, width), generator=generator)
    return torch.where(torch.rand(values.shape, generator=generator) < 0.3, limits.min, values).to(dtype)


@pytest.mark.parametrize(("width", "count"), [(32, 3), (8, 2), (48, 2)])
def test_lengths_stay_symbolic(width: int, count: int, same_bits: Check) -> None:
    same_bits(of_heads(width, count), *([extreme(batch, length, width * count)] for batch, length in ((1, 1), (3, 5), (2, 40))))


@pytest.mark.parametrize(("width", "read"), [(32, True), (8, False)])
def test_heads_of_whole_vectors_are_read_where_they_lie(width: int, read: bool, targets: Mapping[str, Target]) -> None:
    """Others are copied first."""
    program = of_heads(width, 3)
    (rotary,) = (group for group in plan(program, targets["tvm:x86-64"]).groups if group.kernel == "rotary")
    assert (rotary.inputs[0] == program.inputs[0].name) is read


def test_tables_of_a_length_expanded_along_the_batch(same_bits: Check) -> None:
    same_bits(turned_by_length(), *([extreme(batch, length, 6)] for batch, length in ((1, 1), (3, 4), (2, 9))))


def test_a_net_of_transformers(same_bits: Check) -> None:
    same_bits(attending_net(), *([torch.randn(batch, 6, 16, generator=torch.Generator().manual_seed(batch))] for batch in (1, 3)))


def test_moved_tables_of_fixed_size_are_constants(targets: Mapping[str, Target]) -> None:
    groups = plan(attending_net(), targets["tvm:x86-64"]).groups
    (rotary,) = (group for group in groups if group.kernel == "rotary")
    assert not [group for group in groups if group.output in rotary.inputs[1:]]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda: built((1, 3, 4), turned(S8, (3, 4)), dtype=torch.int8), "its operands have 3, 2, 2 dimensions"),
        (lambda: built((1, 3, 4), turned(S8, (1, 1, 4)), dtype=torch.int8), None),
    ],
    ids=["ranks", "taken"],
)
def test_refusals(program: Callable[[], Program], reason: str | None, target: Target) -> None:
    assert [refusal.reason for refusal in TVM.legalize(program(), target)] == ([] if reason is None else [reason])
