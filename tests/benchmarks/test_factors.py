"""benchmarks/factors.py: a row of figures for each model, a dash where a pass finds nothing, and its place in the README."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import factors
import readme

MARKS = "<!-- factors -->\nstale\n<!-- /factors -->\n"


def _row(name: str) -> dict[str, str]:
    found = factors.row(name)
    assert len(found) == len(factors.HEAD)
    assert found[0] == name
    return dict(zip(factors.HEAD[1:], found[1:], strict=True))


def test_a_wide_normalisation_gains_by_factors() -> None:
    found = _row("wide RMSNorm")
    assert float(found["power-of-two-factors"]) > float(found["integers"]) + 2
    assert found["fold-first-token"] == "-"
    assert float(found["unrounded norm inputs"]) > float(found["simulated"]) + 3


def test_a_first_token_gains_by_being_folded() -> None:
    found = _row("first token")
    assert float(found["fold-first-token"]) > float(found["integers"]) + 5
    assert found["power-of-two-factors"] == "-"


def test_the_table_goes_where_the_marks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "PAGES", (tmp_path / "README.md",))
    monkeypatch.setattr(factors, "row", lambda name: (name, "1.00", "2.00", "-", "3.00", "4.00"))
    monkeypatch.setattr(sys, "argv", ["factors.py", "--write", "--models", "char-lm"])
    readme.PAGES[0].write_text(f"# Page\n{MARKS}")
    factors.main()
    written = readme.PAGES[0].read_text()
    assert "| char-lm | 1.00 | 2.00 | - | 3.00 | 4.00 |" in written
    assert "stale" not in written
    readme.PAGES[0].write_text("# Page\n")
    with pytest.raises(ValueError, match=r"no page has a place called factors"):
        factors.main()
    assert readme.PAGES[0].read_text() == "# Page\n"
