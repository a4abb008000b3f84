"""``fxpress inspect``: a model's graph and cost, or an artifact's manifest and proofs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .terminal import Json, print_json


def inspect(
    what: Annotated[
        str, typer.Argument(help="A zoo name, a .pt2 file, package.module:factory (which imports code), or an artifact's folder.")
    ],
    as_json: Json = False,
) -> None:
    """Show a model's graph and cost, or an artifact's manifest and proofs."""
    from ..inspection import inspect_artifact, inspect_model

    data, lines = inspect_artifact(Path(what)) if Path(what).is_dir() else inspect_model(what)
    if as_json:
        print_json(data)
    else:
        Console().print(lines, markup=False, highlight=False, soft_wrap=True)
