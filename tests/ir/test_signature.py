"""A signature binds named dimensions once and holds inputs to dtypes, sizes and ranges."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Dimension, InputSpec
from fxpress_ir.errors import InputError

BATCH, TOKENS = Dimension("batch", 1, 8), Dimension("tokens", 2)
SPEC = InputSpec("ids", (BATCH, TOKENS, 3), torch.int64)


def test_a_spec_prints_its_names() -> None:
    assert str(SPEC) == "ids: int64[batch, tokens, 3]"
    assert str(InputSpec("flag", (), torch.bool)) == "flag: bool[]"
    assert str(InputSpec("x", (2,), torch.int8, 0.1)) == "x: int8[2] in steps of 0.1"


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"), [(BATCH, (1, 8), (0, 9)), (TOKENS, (2, 10**9), (0, 1)), (Dimension("one", 1, 1), (1,), (0, 2))]
)
def test_a_dimension_admits_its_inclusive_range(dimension: Dimension, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    assert all(map(dimension.admits, inside))
    assert not any(map(dimension.admits, outside))


def test_sizes_are_bound_once_for_all_inputs() -> None:
    sizes: dict[str, int] = {}
    SPEC.check((4, 5, 3), torch.int64, sizes)
    InputSpec("mask", (BATCH, TOKENS), torch.float32).check((4, 5), torch.float32, sizes)
    assert sizes == {"batch": 4, "tokens": 5}
    with pytest.raises(InputError, match="input 'mask': dimension 'tokens' is 6 here and 5 before; pass a tensor mask"):
        InputSpec("mask", (BATCH, TOKENS), torch.float32).check((4, 6), torch.float32, sizes)


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((4, 5, 3), torch.int32, "dtype is torch.int32, expected torch.int64"),
        ((4, 5), torch.int64, r"shape \[4, 5\] has 2 dimensions"),
        ((4, 5, 4), torch.int64, "dimension 2 is 4, expected 3"),
        ((9, 5, 3), torch.int64, r"dimension 'batch' is 9, outside \[1, 8\]"),
        ((4, 1, 3), torch.int64, r"dimension 'tokens' is 1, outside \[2, unbounded\]"),
    ],
)
def test_what_differs_is_named(shape: tuple[int, ...], dtype: torch.dtype, reason: str) -> None:
    with pytest.raises(InputError, match=f"input 'ids': {reason}.*; pass a tensor ids: int64"):
        SPEC.check(shape, dtype, {})
