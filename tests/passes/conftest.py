"""What the tests of passes share stands in this folder; every test starts from the same seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
