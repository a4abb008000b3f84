"""benchmarks/fusion.py: every group of a gated decoder is found, programs that differ are told, the table has its place."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fusion
import readme
from real_models import llama

MARKS = "<!-- fusion -->\nstale\n<!-- /fusion -->\n"


@pytest.mark.slow  # transformers is imported and its Llama captured
def test_a_decoders_layer_has_two_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(fusion.MODELS, "small", partial(llama, hidden=32, heads=2, layers=1, intermediate=48))
    apart = fusion.integer_program("small")
    assert fusion.groups(apart) == 0
    assert fusion.groups(fx.Pipeline.parse("fuse-parallel-integer").run(apart).program) == 2


def test_other_bits_are_told() -> None:
    same = np.arange(3)
    fusion.check_bits("net on target", [same, same.copy()])
    with pytest.raises(ValueError, match="net on target: fused, it gives other bits"):
        fusion.check_bits("net on target", [same, same + 1])


def test_the_table_goes_where_the_marks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "PAGES", (tmp_path / "README.md",))
    monkeypatch.setattr(fusion, "integer_program", lambda name: None)
    monkeypatch.setattr(fusion, "row", lambda name, target, *_: (name, target, "2.00 ms", "1.90 ms", "0.95", "6 of 6", "0.95"))
    monkeypatch.setattr(sys, "argv", ["fusion.py", "--write", "--models", "minilm-l6"])
    readme.PAGES[0].write_text(MARKS)
    fusion.main()
    page = readme.PAGES[0].read_text()
    assert page.count("| minilm-l6 |") == len(fusion.TARGETS)
    assert "stale" not in page
