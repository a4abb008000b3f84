"""What is kept comes back whole, of its own run only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fxpress_ir.errors import PassError
from fxpress_passes.recover.checkpoint import Checkpoint


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    Checkpoint(folder, "ab").write(7, {"x": torch.arange(3), "mask": torch.tensor([True, False])})
    found = Checkpoint(folder, "ab").read()
    assert found is not None
    assert (found[0], found[1]["x"].tolist(), found[1]["mask"].tolist()) == (7, [0, 1, 2], [True, False])
    assert Checkpoint(folder, "cd").read() is None
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["recover-ab.safetensors"]


def test_without_a_folder_nothing_is_kept() -> None:
    nothing = Checkpoint("", "ab")
    nothing.write(1, {"x": torch.zeros(1)})
    assert nothing.read() is None
    assert not nothing.is_due


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    Checkpoint(str(tmp_path), "ab").write(7, {"x": torch.zeros(3)})
    file = tmp_path / "recover-ab.safetensors"
    file.rename(tmp_path / "recover-cd.safetensors")
    with pytest.raises(PassError, match="is no intact state of this training; remove it to begin anew"):
        Checkpoint(str(tmp_path), "cd").read()
    file.write_bytes(b"damaged")
    with pytest.raises(PassError, match="is no intact state"):
        Checkpoint(str(tmp_path), "ab").read()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PassError, match="cannot be written"):
        Checkpoint(str(tmp_path / "file"), "ab").write(1, {"x": torch.zeros(1)})
