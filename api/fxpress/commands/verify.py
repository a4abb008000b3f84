"""``fxpress verify``: is an artifact intact, proved, and does it compute here what it computed where it was made?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .terminal import Json, bars, print_json


def verify(folder: Annotated[Path, typer.Argument(help="An artifact.")], as_json: Json = False) -> None:
    """Check hashes and proofs and run the conformance vectors; exit code 1 where one fails, 2 where the artifact is damaged."""
    from ..conformance import check

    with bars(as_json) as tell:
        if tell is not None:
            tell("checking", 0, 1)
        findings = check(folder)
    held = all(finding.held for finding in findings)
    if as_json:
        print_json({"folder": str(folder), "held": held, "checks": [asdict(finding) for finding in findings]})
    else:
        console = Console()
        for finding in findings:
            line = f"{'ok' if finding.held else 'FAILED'}: {finding.what}: {finding.seen}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if not any(finding.what.startswith("conformance") for finding in findings):
            console.print("the artifact holds no conformance vectors: nothing was run", markup=False, soft_wrap=True)
    raise typer.Exit(0 if held else 1)
