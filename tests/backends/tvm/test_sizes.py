"""Sizes as data are what their symbols make them: sums, products, multiples; changes of shape fall into runs that need no others."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from fxpress_backends.tvm.sizes import Extent, Size, blocks, dimensions, extent_of, padded, plus, times, value
from fxpress_ir import capture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, export, nn, zeros

NUMBERS = {"batch": 11, "heads": 5, "seq": 7}
"""Primes, so that products of other factors are other numbers."""
BATCH, SEQ = (Size(((1, (name,)),)) for name in ("batch", "seq"))
exact = settings(max_examples=200, deadline=None, derandomize=True)
names = st.lists(st.sampled_from([*NUMBERS]), min_size=1, max_size=2)
monomials = st.builds(lambda factor, product: Size(((factor, tuple(sorted(product))),)), st.integers(1, 4), names)
extents = st.recursive(st.one_of(st.integers(-3, 5), monomials), lambda inner: st.builds(plus, inner, inner), max_leaves=3)


@exact
@given(extents, extents, st.sampled_from([1, 4, 16]))
def test_sizes_compute_as_numbers_do(left: Extent, right: Extent, multiple: int) -> None:
    a, b = value(left, NUMBERS), value(right, NUMBERS)
    assert value(plus(left, right), NUMBERS) == a + b
    assert value(times(left, right), NUMBERS) == a * b
    assert plus(left, right) == plus(right, left)
    assert times(left, right) == times(right, left)
    assert value(padded(left, multiple), NUMBERS) == -(-a // multiple) * multiple
    assert set(dimensions([[left], 3, right])) <= NUMBERS.keys()


@exact
@given(st.lists(st.sampled_from([1, 2, 3, BATCH, SEQ]), min_size=1, max_size=5), st.data())
def test_a_change_of_shape_falls_into_runs(factors: list[Extent], data: st.DataObject) -> None:
    """Both shapes are the same factors, merged differently."""
    before, after = ([prod_of(run) for run in data.draw(partitions(factors))] for _ in range(2))
    found = blocks(before, after)
    for old, new in found:
        assert prod_of(before[old]) == prod_of(after[new])
    assert [size for old, _ in found for size in before[old]] == before
    assert [size for _, new in found for size in after[new]] == after
    common = {prod(numbers(before[:cut])) for cut in range(len(before) + 1)} & {prod(numbers(after[:cut])) for cut in range(len(after) + 1)}
    assert {prod(numbers(before[: old.stop])) for old, _ in found} >= common - {1}
    elements = np.arange(prod(numbers(before))).reshape(numbers(before))
    np.testing.assert_array_equal(regrouped(elements, found, before, after), elements.reshape(numbers(after)))


def prod_of(run: list[Extent]) -> Extent:
    product: Extent = 1
    for size in run:
        product = times(product, size)
    return product


def numbers(sizes: list[Extent]) -> list[int]:
    return [value(size, NUMBERS) for size in sizes]


@st.composite
def partitions(draw: st.DrawFn, factors: list[Extent]) -> list[list[Extent]]:
    cuts = sorted(draw(st.sets(st.integers(1, len(factors) - 1)))) if len(factors) > 1 else []
    return [factors[first:last] for first, last in zip([0, *cuts], [*cuts, len(factors)], strict=True)]


def regrouped(elements: np.ndarray, found: list[tuple[slice, slice]], before: list[Extent], after: list[Extent]) -> np.ndarray:
    """The element at each index after, by the index that each run leads back to."""
    result = np.empty(numbers(after), elements.dtype)
    for index in np.ndindex(*result.shape):
        back: list[int] = []
        for old, new in found:
            position = np.ravel_multi_index(index[new], numbers(after[new])) if index[new] else 0
            back += map(int, np.unravel_index(position, numbers(before[old]))) if before[old] else []
        result[index] = elements[tuple(back)]
    return result


class _Sizes(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        batch, length, width = x.shape
        flat = (x + x).reshape(batch * length, width)
        return flat, x.expand(4, -1, -1, -1).reshape(-1, width), x[:, ::2], nn.functional.pad(x, (0, 0, 1, 0)).transpose(0, 1)


def test_symbolic_sizes_of_a_program() -> None:
    shapes = {"x": {0: export.Dim("batch"), 1: export.Dim("seq", min=3, max=64)}}
    program = capture(_Sizes(), (zeros(2, 5, 8),), dynamic_shapes=shapes)
    named = [[extent_of(size, program.symbols()) for size in node.meta["val"].shape] for node in program.outputs()]
    product = Size(((1, ("batch", "seq")),))
    assert named == [[product, 8], [times(4, product), 8], [BATCH, None, 8], [plus(SEQ, 1), BATCH, 8]]


@pytest.mark.parametrize(
    ("extent", "text"),
    [
        (times(plus(SEQ, 1), times(BATCH, 2)), "2*batch*seq + 2*batch"),
        (plus(times(SEQ, -1), 4), "-1*seq + 4"),
        (plus(SEQ, -4), "seq - 4"),
        (padded(SEQ, 16), "16*ceil(seq/16)"),
        (padded(plus(SEQ, 1), 16), "16*ceil((seq + 1)/16)"),
        (plus(plus(SEQ, 3), times(SEQ, -1)), "3"),
    ],
)
def test_text(extent: Extent, text: str) -> None:
    assert str(extent) == text
