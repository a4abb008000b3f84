"""Sizes as ATen writes them, as pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_ir import capture
from fxpress_passes.quantize.windows import around, pair, spatial
from sketch import Sketch
from torch import nn


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [(3, (1, 1), (3, 3)), ([3], (1, 1), (3, 3)), ([2, 5], (1, 1), (2, 5)), ([], (4, 7), (4, 7)), ([], (0, 0), (0, 0)), (0, (9, 9), (0, 0))],
)
def test_a_pair_is_one_number_two_or_none(value: Any, default: tuple[int, int], expected: tuple[int, int]) -> None:
    assert pair(value, default) == expected


def test_padding_on_both_ends() -> None:
    assert around((1, 2)) == (1, 2, 1, 2)


def test_height_and_width_are_those_of_a_batch_of_images() -> None:
    assert spatial(Sketch(2, 3, 4, 5).x) == (4, 5)
    assert spatial(Sketch(3, 4, 5).x) is None
    assert spatial(Sketch(2, 3, 4, 5, 6).x) is None


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_symbolic_height_or_width_is_none(dimension: int) -> None:
    size = torch.export.Dim("size", max=64)
    program = capture(nn.ReLU(), (torch.zeros(2, 4, 6, 6),), dynamic_shapes=({dimension: size},))
    assert spatial(program.placeholders()[0]) is None
