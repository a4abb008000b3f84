"""benchmarks/narrow.py: each way is the one that it is called, and keeps the bits of its program; other bits are told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from fxpress_backends.tvm import cpu

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import narrow


@pytest.mark.skipif(cpu.VNNI not in cpu.host_features(), reason="this CPU has no AVX512-VNNI")
def test_ways_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(narrow, "SIDE", 128)
    eight, expanded, split = (artifact.manifest["details"] for artifact in narrow.artifacts(narrow.linear(1), tmp_path))
    assert [narrow.narrow_bytes(details) for details in (eight, expanded, split)] == [0, 128 * 64, 128 * 64]
    assert ("apart" in expanded, "packed" in split) == (True, True)
    kernels = [[group["kernel"] for group in details["groups"]] for details in (expanded, split)]
    assert ["linear_nibbles" in found for found in kernels] == [False, True]


def test_other_bits_are_told() -> None:
    same = np.arange(3)
    narrow.check_bits("net", [same], [same.copy()])
    with pytest.raises(ValueError, match="net: other bits"):
        narrow.check_bits("net", [same], [same + 1])
