"""A Markdown table ==> its place in the README or in docs/measurements.md, between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[1]
PAGES = (_ROOT / "README.md", _ROOT / "docs" / "measurements.md")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the rest are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def write(name: str, text: str) -> None:
    """Put `text` where a page has the marks of `name`.

    Raises:
        ValueError: no page has such marks.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    page = next((page for page in PAGES if pattern.search(page.read_text())), None)
    if page is None:
        raise ValueError(f"no page has a place called {name}")
    page.write_text(pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page.read_text()))
