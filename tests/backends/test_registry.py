"""The table of backends: what it lists, what it imports, and how it answers an unknown name."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fxpress_backends.registry import BACKENDS, find, targets
from fxpress_ir.errors import BackendError


def test_targets_are_unique_and_found_by_name() -> None:
    names = [target.name for target in targets()]
    assert len(names) == len(set(names))
    assert {"reference", "onnx:float", "onnx:int", "onnx:qlinear", "tvm:native", "tvm:x86-64"} <= set(names)
    for name in names:
        entry, target = find(name)
        assert target.name == name
        assert entry in BACKENDS
        assert name.split(":")[0] == entry.family


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(BackendError, match=r"unknown target 'onnx:integer'; nearest: onnx:int.*`fxpress targets` lists all"):
        find("onnx:integer")


def test_listing_targets_imports_no_runtime() -> None:
    code = (
        "import sys, fxpress_backends.artifact, fxpress_backends.registry as r; r.targets();"
        "print(sorted({'tvm', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
