"""The first node that is NaN, and else the first that is infinite, is found by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import captured
from fxpress_passes.not_finite import first_not_finite
from torch import Tensor


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (lambda x: x.exp(), None),
        (lambda x: x.log().exp(), ("log", "infinite")),
        (lambda x: torch.where(x > 0, x, -float("inf")).softmax(-1), ("softmax", "NaN")),
    ],
)
def test_where_numbers_end(body: Callable[[Tensor], Tensor], found: tuple[str, str] | None) -> None:
    assert first_not_finite(captured(body, 1, 3), (torch.zeros(1, 3),)) == found
