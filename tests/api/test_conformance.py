"""How near conformance vectors have to be, by the stage of the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from fxpress.conformance import check
from fxpress_backends import conformance, folder, manifest
from fxpress_backends.artifact import lower
from safetensors.numpy import load_file, save_file
from support import residual_net


def _as_if(out: Path, stage: str, factor: float) -> Path:
    """An artifact of another stage, its vectors that factor off."""
    artifact = lower(residual_net(), "reference", out)
    arrays, record = load_file(out / conformance.FILE), artifact.manifest["conformance"]
    save_file({name: array * factor if name in record["outputs"] else array for name, array in arrays.items()}, out / conformance.FILE)
    data = {name: value for name, value in artifact.manifest.items() if name != "sha256"}
    (out / manifest.NAME).unlink()
    changed = {"stage": stage, "conformance": {**record, "exact": False}, "files": folder.inventory(out)}
    (out / manifest.NAME).write_bytes(manifest.seal({**data, **changed}))
    return out


@pytest.mark.parametrize(
    ("stage", "factor", "held"),
    [("float", 1.00005, True), ("float", 1.01, False), ("mixed", 1.01, True), ("simulated", 1.01, True), ("mixed", 1.05, False)],
)
def test_what_is_quantised_on_the_way_may_be_a_few_steps_off(stage: str, factor: float, held: bool, tmp_path: Path) -> None:
    (finding,) = (found for found in check(_as_if(tmp_path / "net", stage, factor)) if found.what.startswith("conformance"))
    assert finding.held is held
