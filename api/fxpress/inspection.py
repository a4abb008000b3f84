"""model or artifact folder ==> what a person wants to know about it, as data and as text."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fxpress_backends.artifact import load

from .model_source import open_model


def inspect_model(name: str) -> tuple[dict[str, Any], str]:
    """Graph and cost (at batch 1) of a ``.pt2`` file, a zoo model or what a factory makes."""
    source = open_model(name)
    program = source.capture()
    cost = asdict(program.cost())
    lines = [source.name, str(program), *(f"{key}: {value:,}" for key, value in cost.items())]
    return {"name": source.name, "hash": program.hash, "graph": str(program), "cost": cost}, "\n".join(lines)


def inspect_artifact(folder: Path) -> tuple[dict[str, Any], str]:
    """Manifest and proofs of an artifact, its hashes checked."""
    artifact = load(folder)
    manifest = dict(artifact.manifest)
    certificate = json.loads((folder / "certificate.json").read_text())
    lines = [
        f"{folder}: {artifact.target}, {manifest['stage']} program {manifest['program_hash'][:12]}, {artifact.size:,} bytes",
        f"inputs: {', '.join(map(str, artifact.inputs))}",
        f"outputs: {artifact.output_text}",
        *(f"pass: {entry}" for entry in manifest["history"]),
        f"rules that hold: {', '.join(certificate['rules'])}",
        f"facts proved: {len(certificate['facts'])}",
    ]
    for kind in ("accumulator (any order)", "product and rounding term"):
        widest = sorted((fact for fact in certificate["facts"] if fact["what"] == kind), key=_used, reverse=True)[:3]
        lines += [f"  {fact['node']}: {kind} in [{fact['low']:,}, {fact['high']:,}], {_used(fact):.1%} of its width" for fact in widest]
    return {"manifest": manifest, "certificate": certificate}, "\n".join(lines)


def _used(fact: dict[str, Any]) -> float:
    """How much of the permitted range a proved value uses."""
    return float(max(abs(fact["low"]), abs(fact["high"])) / max(abs(fact["least"]), abs(fact["most"])))
