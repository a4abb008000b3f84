"""Every Python fence of README.md, CONTRIBUTING.md and docs/ runs, in order, one namespace a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def fences(text: str) -> Iterator[str]:
    """The code of each fence, moved down so that line numbers in tracebacks are those of the page."""
    for found in _FENCE.finditer(text):
        yield "\n" * text.count("\n", 0, found.start(1)) + found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    for code in fences(page.read_text()):
        exec(compile(code, str(page), "exec", dont_inherit=True), vars(module))


def test_fences_are_found_with_their_lines() -> None:
    text = "a\n```python\nx = 1\n```\n```bash\nls\n```\n```python\ny = x\n```\n"
    assert list(fences(text)) == ["\n\nx = 1\n", "\n" * 8 + "y = x\n"]


def test_no_python_fence_is_written_in_another_form() -> None:
    for page in PAGES:
        text = page.read_text()
        assert len(re.findall(r"^\s*[`~]{3,}\s*\{?\.?(?:py|pycon|python)", text, re.MULTILINE)) == len(list(fences(text))), page.name
