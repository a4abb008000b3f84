"""benchmarks/hawq.py: a row for each published scheme, with the times of all solvers, and its place in the README."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import hawq
import readme


def test_a_row_has_the_scheme_and_three_times() -> None:
    found = dict(zip(hawq.HEAD, hawq.row("latency_0.5", repeats=1), strict=True))
    assert found["bits of the 19 convolutions"] == hawq.DATA["published"]["latency_0.5"]
    assert (found["published"], found["loss"], found["gap"]) == ("the same", "0.2027", "0")
    assert all(float(found[f"{solver.name}, ms"]) >= 0 for solver in hawq.SOLVERS)
    assert found["greedy's loss"] == "+7.2%"


def test_another_published_scheme_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hawq.DATA["published"], "size_0.5", "8" * 19)
    assert dict(zip(hawq.HEAD, hawq.row("size_0.5", repeats=1), strict=True))["published"] == "8" * 19


def test_the_table_goes_where_the_marks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "PAGES", (tmp_path / "README.md",))
    monkeypatch.setattr(hawq, "row", lambda budget, repeats: (budget, *["-"] * (len(hawq.HEAD) - 1)))
    monkeypatch.setattr(sys, "argv", ["hawq.py", "--write"])
    readme.PAGES[0].write_text("# Page\n<!-- hawq -->\nstale\n<!-- /hawq -->\n")
    hawq.main()
    written = readme.PAGES[0].read_text()
    assert all(f"| {budget} | -" in written for budget in hawq.DATA["published"])
    assert "stale" not in written
