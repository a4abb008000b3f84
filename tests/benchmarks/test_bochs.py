"""benchmarks/bochs.py: what Linux unpacks at its start, repairs that fit one source alone, and one line where something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import bochs
import bochs_repairs


def _unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, as the kernel's documentation of its initramfs format has it."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, named = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + named - 1].decode()
        start = (at + 110 + named + 3) & -4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        at = (start + size + 3) & -4


def test_an_archive_holds_files_links_and_the_folders_above_them(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"12345")
    found = _unpacked(bochs.archive({"bin/a/b": tmp_path / "here", "init": b"#!/bin/sh\n", "lib64": "/lib"}, ("proc",)))
    assert list(found)[:3] == ["bin", "bin/a", "proc"]
    assert found == {
        **dict.fromkeys(("bin", "bin/a", "proc"), (0o40755, b"")),
        "bin/a/b": (0o100755, b"12345"),
        "init": (0o100755, b"#!/bin/sh\n"),
        "lib64": (0o120777, b"/lib"),
    }


def test_a_repair_fits_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bochs_repairs, "REPAIRS", (("a.cc", r"rows(\d)", r"bytes\1", 2),))
    (tmp_path / "a.cc").write_text("rows1; rows2;\n")
    bochs_repairs.repair(tmp_path)
    assert (tmp_path / "a.cc").read_text() == "bytes1; bytes2;\n"
    with pytest.raises(SystemExit, match=r"^a\.cc has 0 places for .*, not 2: take the source of Bochs 3\.0, as released$"):
        bochs_repairs.repair(tmp_path)


def test_another_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^cpu/avx/amx\.cc has 0 places"):
        bochs_repairs.repair(tmp_path)


def test_commands_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^the machine cannot be built: apt install apt dpkg g\+\+ make xorriso xz-utils$"):
        bochs.Machine(tmp_path / "machine")
    assert not (tmp_path / "machine").exists()
