"""artifact folder ==> what can be checked of it here, and whether it holds: certificate and conformance vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from fxpress_backends.artifact import CERTIFICATE, Artifact, load
from fxpress_ir.errors import ArtifactError
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

RTOL = 1e-4
"""Of a float artifact's outputs: max abs difference <= RTOL * max abs value; another CPU's kernels add in another order."""
STEPS = 0.02
"""The same where floats are quantised on the way: next to a tie the last bit decides the step, one of 255, and what follows from it."""


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
    record = artifact.manifest.get("conformance")
    if record is None:
        return
    try:
        tensors = load_file(artifact.folder / record["file"])
        inputs = [tensors[name] for name in record["inputs"]]
        wanted = {name: tensors[name] for name in record["outputs"]}
        exact = bool(record["exact"])
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise _malformed(artifact, "its conformance record") from error
    rtol = STEPS if artifact.manifest["stage"] in ("simulated", "mixed") else RTOL
    found = artifact.run(*inputs)
    if len(found) != len(wanted):
        yield Finding("conformance", False, f"{len(found)} outputs, {len(wanted)} expected")
    for (name, expected), value in zip(wanted.items(), found, strict=False):
        held, seen = _compared(expected, value, 0.0 if exact else rtol)
        yield Finding(f"conformance of {name}", held, seen)


def _compared(expected: NDArray[Any], found: NDArray[Any], rtol: float) -> tuple[bool, str]:
    """Whether a result is right, and what was seen; the same bits where nothing may differ."""
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return False, f"{found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
    if not rtol:
        same = expected.tobytes() == found.tobytes()
        different = int((expected != found).sum())
        return same, "same bits" if same else f"{different} of {expected.size} values differ"
    gap, most = (float(np.abs(value).max(initial=0.0)) for value in (found.astype(np.float64) - expected, expected.astype(np.float64)))
    return gap <= rtol * most, f"differs by {gap:.3g}, largest value {most:.3g}"


def _malformed(artifact: Artifact, what: str) -> ArtifactError:
    return ArtifactError(f"{what} is malformed", where=f"artifact {str(artifact.folder)!r}", way_on="lower the program again")
