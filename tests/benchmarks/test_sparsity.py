"""The sparsity benchmark's cells: zeros cost digits, distillation wins them back, and seeds decide random masks."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from sparsity import HOWS, case, cells


def test_a_row_shows_both_figures() -> None:
    tried = case("digits-cnn", 15)
    once, recovered = cells(tried, "magnitude", HOWS["75 %"], ["magnitude"])
    assert float(once.removesuffix("%")) + 10 < float(recovered.removesuffix("%"))
    assert cells(tried, "magnitude", HOWS["75 %"], ["wanda"]) == (once, "")
    assert cells(tried, "magnitude", HOWS["75 %"], []) == (once,)
    assert " to " in cells(tried, "random", HOWS["2:4"], [])[0]
