"""artifact folder ==> what can be checked of it here, and whether it holds: certificate and conformance vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

from fxpress_backends.artifact import CERTIFICATE, Artifact, load
from fxpress_backends.conformance import compared, vectors
from fxpress_ir.errors import ArtifactError


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it holds, and what was seen."""

    what: str
    held: bool
    seen: str


def check(folder: str | PathLike[str], **options: Any) -> tuple[Finding, ...]:
    """Open an artifact, which holds every byte to its hash, then check its proofs and run its conformance vectors.

    Args:
        options: the runtime's, as ``fx.load`` takes them.

    Raises:
        ArtifactError: no artifact, damaged or changed.
        BackendError: its target is unknown here, or its runtime does not take the options.
    """
    artifact = load(folder, **options)
    count = len(artifact.manifest["files"])
    return (Finding("hashes", True, f"manifest and {count} files, {artifact.size:,} bytes"), *_proofs(artifact), *_vectors(artifact))


def _proofs(artifact: Artifact) -> Iterator[Finding]:
    if CERTIFICATE not in artifact.manifest["files"]:
        yield Finding("certificate", False, f"{CERTIFICATE} is missing")
        return
    try:
        certificate = json.loads((artifact.folder / CERTIFICATE).read_text(encoding="ascii"))
        same = certificate["program_hash"] == artifact.manifest["program_hash"]
        facts, rules = certificate["facts"], certificate["rules"]
        broken = [fact["node"] for fact in facts if not fact["least"] <= fact["low"] <= fact["high"] <= fact["most"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _malformed(artifact, CERTIFICATE) from error
    yield Finding("certificate", same, f"{len(rules)} rules, of {'this program' if same else 'another program'}")
    if artifact.manifest["stage"] == "integer":
        seen = f"{broken[0]} does not fit" if broken else f"{len(facts)} facts about integer ranges"
        yield Finding("proofs", bool(facts) and not broken, seen)


def _vectors(artifact: Artifact) -> Iterator[Finding]:
    if artifact.manifest.get("conformance") is None:
        return
    inputs, wanted, rtol = vectors(artifact.folder, artifact.manifest)
    found = artifact.run(*inputs)
    if len(found) != len(wanted):
        yield Finding("conformance", False, f"{len(found)} outputs, {len(wanted)} expected")
    for (name, expected), value in zip(wanted.items(), found, strict=False):
        held, seen = compared(expected, value, rtol)
        yield Finding(f"conformance of {name}", held, seen)


def _malformed(artifact: Artifact, what: str) -> ArtifactError:
    return ArtifactError(f"{what} is malformed", where=f"artifact {str(artifact.folder)!r}", way_on="lower the program again")
