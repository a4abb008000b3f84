"""Figures have four digits, a prefix and a unit."""

from __future__ import annotations

import pytest
from fxpress_passes.allocate.figures import figure, table
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("resource", "value", "text"),
    [
        ("latency", 0.00314867, "3.149 ms"),
        ("latency", 2.5, "2.5 s"),
        ("latency", 0.0, "0 s"),
        ("latency", 2e-11, "2e-11 s"),
        ("size", 11_157_504, "11.16 MB"),
        ("bops", 1.0846e11, "108.5 GBOP"),
        ("parameters", 1_179_648, "1.18 M"),
        ("share", 0.25, "0.25"),
        ("size", -4096, "-4.096 kB"),
    ],
)
def test_a_figure(resource: str, value: float, text: str) -> None:
    assert figure(resource, value) == text


@settings(deadline=None, derandomize=True, max_examples=30)
@given(value=st.floats(1e-8, 1e15))
def test_a_figure_rounded_up_is_not_below(value: float) -> None:
    number, _, unit = figure("size", value, up=True).partition(" ")
    scale = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1, "mB": 1e-3, "uB": 1e-6, "nB": 1e-9}[unit]
    assert value * (1 - 1e-15) <= float(number) * scale <= value * 1.0011


def test_columns_are_aligned() -> None:
    assert table(("unit", "choice", "loss"), [("conv", "8", "0.1"), ("fc", "4", "12.25")]) == (
        "unit  choice   loss\nconv  8         0.1\nfc    4       12.25"
    )
