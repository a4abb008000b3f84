"""What the tests of integer operators draw from: extremes, ties, every width of result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fxpress_ir import Edit
from hypothesis import settings
from hypothesis import strategies as st
from support import fxp
from torch import Tensor, fx

Check = Callable[..., None]
exact = settings(max_examples=25, deadline=None, derandomize=True)
RESULTS = (
    (-128, 127, torch.int8),
    (0, 255, torch.uint8),
    (0, 127, torch.int8),
    (-7, 100, torch.int8),
    (3, 200, torch.uint8),
    (-32768, 32767, torch.int16),
    (0, 29000, torch.int16),
    (-32768, 32767, torch.int32),
)
results = st.sampled_from(RESULTS)
bytes_ = st.sampled_from((torch.int8, torch.uint8))
activations = st.sampled_from((torch.int8, torch.uint8, torch.int16))
seeds = st.integers(0, 2**31)


def extreme(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A third lowest, a third highest, a third anything."""
    limits = torch.iinfo(dtype)
    anything = torch.randint(limits.min, limits.max + 1, shape, generator=generator)
    choice = torch.randint(0, 3, shape, generator=generator)
    return torch.where(choice == 0, limits.min, torch.where(choice == 1, limits.max, anything)).to(dtype)


def multipliers(draw: Any, channels: int) -> Tensor:
    """Powers of two, which make ties, and anything up to 2**15 - 1."""
    one = st.one_of(st.integers(1, 32767), st.sampled_from([1 << k for k in range(15)]))
    return torch.tensor(draw(st.lists(one, min_size=channels, max_size=channels)), dtype=torch.int32)


@st.composite
def roundings(draw: Any) -> tuple[int, int, int, torch.dtype]:
    qmin, qmax, dtype = draw(results)
    return draw(st.integers(1, 16 if dtype.itemsize == 1 else 15)), qmin, qmax, dtype


def requantized(edit: Edit, acc: fx.Node, b: Tensor, rounding: tuple[int, int, int, torch.dtype], axis: int) -> fx.Node:
    c, qmin, qmax, dtype = rounding
    return edit.call(fxp.requantize.default, acc, edit.add_tensor("b", b), c, qmin, qmax, axis, dtype)
