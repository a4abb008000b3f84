"""What an artifact says of itself: canonical JSON that carries its own SHA-256, so that no byte of it changes unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxpress_ir.errors import ArtifactError

NAME = "manifest.json"
FORMAT = "fxpress-artifact"
VERSION = 1
_LOWER_AGAIN = "lower the program again"


def canonical(data: Mapping[str, Any]) -> bytes:
    """The one JSON text of `data`: sorted keys, ASCII, finite numbers."""
    return (json.dumps(data, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def seal(data: Mapping[str, Any]) -> bytes:
    """The manifest's bytes: `data`, the format and the SHA-256 of both."""
    whole = {"format": FORMAT, "format_version": VERSION, **data}
    return canonical({**whole, "sha256": hashlib.sha256(canonical(whole)).hexdigest()})


def read(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact.

    Raises:
        ArtifactError: it is missing, is no JSON of ours, has another format version, or was changed.
    """
    where = f"artifact {str(folder)!r}"
    try:
        content = (folder / NAME).read_bytes()
        data = json.loads(content)
    except FileNotFoundError as error:
        raise ArtifactError(f"{NAME} is missing", where=where, way_on="pass a folder that fxpress lowered into") from error
    except OSError as error:
        raise ArtifactError(
            f"{NAME} cannot be read: {error.strerror}", where=where, way_on="check the folder and its permissions"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{NAME} is not JSON", where=where, way_on=_LOWER_AGAIN) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(f"{NAME} is not an fxpress manifest", where=where, way_on="pass a folder that fxpress lowered into")
    if data.get("format_version") != VERSION:
        raise ArtifactError(
            f"format version is {data.get('format_version')!r}, this fxpress reads {VERSION}", where=where, way_on=_LOWER_AGAIN
        )
    if content != seal({key: value for key, value in data.items() if key != "sha256"}):
        raise ArtifactError(f"hash mismatch in {NAME}", where=where, way_on=_LOWER_AGAIN)
    return data
