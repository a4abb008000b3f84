"""benchmarks/low_rank.py: side paths stand beside zeros, a row a rank, and weighing inputs never leaves more on them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import low_rank


def test_zeros_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "CHANGES", {"2:4": (True, None)})
    monkeypatch.setattr(low_rank, "RANKS", (8,))
    *table, _, words = low_rank.by_rank("digits-vit").splitlines()
    none, weighed = ([float(cell.strip("% |")) for cell in line.split(" | ")[2:]] for line in table[2:])
    assert none[0] == none[1]
    assert 90 < none[1] - 0.5 < min(weighed)
    found = re.search(r"in (\d+) of (\d+) cases", words)
    assert found is not None
    assert int(found[1]) == int(found[2]) >= 24
