"""``fxpress passes`` and ``fxpress targets``: what there is to choose from."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from .terminal import Json, print_json


def passes(as_json: Json = False) -> None:
    """List the passes, their options and what they promise about numbers."""
    from fxpress_passes import PASSES
    from fxpress_passes.contract import options_of

    rows = [
        {
            "name": kind.name,
            "options": options_of(kind),
            "promise": str(kind.promise),
            "takes": list(kind.takes),
            "gives": kind.gives or "the same stage",
            "about": (sys.modules[kind.__module__].__doc__ or "").strip(),
        }
        for kind in PASSES
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(title="passes, in the usual order", show_lines=True)
    for column in ("name", "what it does", "options", "promise", "stage"):
        table.add_column(column, overflow="fold")
    for row in rows:
        options = "\n".join(f"{name}={json.dumps(value)}" for name, value in row["options"].items())  # type: ignore[attr-defined]
        table.add_row(row["name"], row["about"], options, row["promise"], f"{'/'.join(row['takes'])} -> {row['gives']}")  # type: ignore[arg-type]
    Console().print(table)


def targets(as_json: Json = False) -> None:
    """List the targets and their cards."""
    from fxpress_backends.registry import targets as all_targets

    if as_json:
        print_json([asdict(target) for target in all_targets()])
        return
    table = Table(title="targets")
    for column in ("name", "what it is", "takes", "8-bit storage", "features", "runs here"):
        table.add_column(column, overflow="fold")
    for target in all_targets():
        here = "yes" if target.runs_here else "no"
        table.add_row(target.name, target.description, ", ".join(target.stages), target.storage, ", ".join(target.features), here)
    Console().print(table)
