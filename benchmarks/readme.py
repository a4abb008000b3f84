"""A Markdown table ==> its place in the README, between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the rest are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def write(name: str, text: str) -> None:
    """Put `text` where the README has the marks of `name`.

    Raises:
        ValueError: the README has no such marks.
    """
    page = README.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"README.md has no place called {name}")
    README.write_text(pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page))
