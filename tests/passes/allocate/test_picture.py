"""A front is drawn with its axes' units and the chosen answer; without matplotlib, one line says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.allocate import Answer, Front, Measured, Milp, Problem, front, picture
from fxpress_passes.allocate.picture import _draw
from matplotlib.figure import Figure
from problems import unit


@pytest.fixture(scope="module")
def swept() -> tuple[Front, Answer]:
    units = tuple(unit(f"u{place}", w8=(0.001, 4e6, 0.003), w4=(0.1 * 2**place, 2e6, 0.002)) for place in range(6))
    problem = Problem(units)
    return front(problem, "latency", points=9), Milp().solve(problem.within({"latency": 0.0155}))


def test_axes_have_units_and_the_chosen_answer_is_marked(swept: tuple[Front, Answer]) -> None:
    found, chosen = swept
    axes = Figure().subplots()
    _draw(axes, found, chosen, Measured(0.016, 0.0155, 0.017), "six layers")
    assert axes.get_xlabel() == "latency (ms)"
    assert axes.get_ylabel() == "predicted loss"
    assert axes.get_yscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["best under a budget", "chosen: 15 ms, loss 0.703", "budget: 15.5 ms", "measured: 16 ms"]
    points = next(line for line in axes.lines if line.get_label() == "best under a budget")
    assert points.get_xdata() == pytest.approx([1e3 * answer.costs["latency"] for answer in found.answers])


def test_without_a_chosen_answer_there_is_none(swept: tuple[Front, Answer]) -> None:
    axes = Figure().subplots()
    _draw(axes, swept[0], None, None, "")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["best under a budget"]


def test_the_same_front_is_the_same_file(swept: tuple[Front, Answer], tmp_path: Path) -> None:
    found, chosen = swept
    one, other = (picture(found, tmp_path / name, chosen=chosen) for name in ("one.svg", "other.svg"))
    assert one.read_bytes() == other.read_bytes()
    assert one.read_text().startswith("<?xml")
    assert picture(found, tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_another_suffix_is_refused(swept: tuple[Front, Answer], tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"front\.gif is no picture; end its name with \.svg or \.png"):
        picture(swept[0], tmp_path / "front.gif")


def test_without_matplotlib_one_line_says_so(swept: tuple[Front, Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PassError, match=r"pictures need matplotlib; pip install 'fxpress\[plots\]'"):
        picture(swept[0], tmp_path / "front.svg")
    assert not list(tmp_path.iterdir())
