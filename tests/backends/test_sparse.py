"""Bitmask and values: the same bits back, fewer bytes or none, a file that lies is an error; artifacts of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_backends import conformance, sparse
from fxpress_backends import manifest as manifests
from fxpress_backends.artifact import Artifact, load, lower
from fxpress_ir import Program
from fxpress_ir.analysis.sparsity import sparse as measured
from fxpress_ir.errors import ArtifactError, BackendError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import nn

DTYPES = st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64"])
shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=9)


@st.composite
def arrays(draw: st.DrawFn) -> NDArray[Any]:
    """Any bits: NaN and -0 too."""
    dtype, shape = np.dtype(draw(DTYPES)), draw(shapes)
    raw = draw(hnp.arrays(f"u{dtype.itemsize}", shape, elements=st.integers(0, 3) | st.integers(0, 2 ** (8 * dtype.itemsize) - 1)))
    return raw.view(dtype)


@given(found=st.dictionaries(st.text(max_size=5), arrays(), max_size=3))
def test_arrays_come_back_bit_for_bit(found: dict[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sparse")
    record = json.loads(json.dumps(sparse.write(found, folder)))
    again = sparse.read(folder, record)
    assert again.keys() == found.keys()
    for name, array in found.items():
        assert (again[name].dtype, again[name].shape, again[name].tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_only_what_gets_smaller_is_worthwhile(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    dense = generator.standard_normal((64, 64)).astype(np.float32)
    half = np.where(generator.random((64, 64)) < 0.5, dense, np.float32(0))
    offset = np.where(generator.random((64, 64)) < 0.5, generator.integers(0, 255, (64, 64)), 128).astype(np.uint8)
    found = {"half": half, "dense": dense, "small": half[:4, :4], "offset": offset, "flags": np.zeros(9999, bool)}
    assert list(sparse.worthwhile(found)) == ["half", "offset"]
    record = sparse.write(sparse.worthwhile(found), tmp_path)
    assert record["tensors"] == {"half": {"shape": [64, 64], "fill": 0}, "offset": {"shape": [64, 64], "fill": 128}}
    counted = measured({"half": torch.from_numpy(half)})["half"].sparse_bytes
    kept = 64 * 64 // 8 + int((offset != 128).sum())
    headers = (tmp_path / sparse.FILE).stat().st_size - counted - kept
    assert 0 < headers < 2 * sparse.MARGIN


@pytest.mark.parametrize("change", [{"shape": [65, 64]}, {"shape": [8, 8]}, {"shape": "much"}, {"fill": -1}, {"fill": 2**40}, {"more": 1}])
def test_a_record_that_does_not_fit_is_an_error(change: dict[str, Any], tmp_path: Path) -> None:
    record = sparse.write({"w": np.eye(64, dtype=np.float32)}, tmp_path)
    record["tensors"]["w"] |= change
    with pytest.raises(ArtifactError, match="its sparse weights are malformed; lower the program again"):
        sparse.read(tmp_path, record)


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    record = sparse.write({"w": np.eye(64, dtype=np.float32)}, tmp_path)
    (tmp_path / sparse.FILE).write_bytes(b"no safetensors")
    for wrong in (record, {**record, "file": "other"}, {"tensors": record["tensors"]}):
        with pytest.raises(ArtifactError, match="its sparse weights are malformed"):
            sparse.read(tmp_path, wrong)


def _net() -> Program:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.Linear(64, 5),
    )
    return fx.capture(nn.Sequential(*layers).eval(), (torch.zeros(1, 3, 6, 6),), dynamic_shapes={"input": {0: fx.Dim("batch")}})


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    """A float program of 80 % zeros in its inner layers, and its integers."""
    data = [(torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)]
    zeros = fx.Pipeline.parse("sparsify{score=magnitude, sparsity=0.8}").run(_net(), calibration=data).program
    integer = fx.Pipeline.parse("quantize-dyadic{integer_only=true}").run(zeros, calibration=data).program
    return {"float": zeros, "integer": integer}


@pytest.mark.parametrize("target", ["reference", "onnx:float", "onnx:int", "onnx:qlinear", "tvm:x86-64"])
def test_an_artifact_is_smaller_and_gives_the_same_bits(target: str, programs: dict[str, Program], tmp_path: Path) -> None:
    program = programs["float" if target == "onnx:float" else "integer"]
    dense, small = (lower(program, target, tmp_path / name, sparse=name == "small") for name in ("dense", "small"))
    record = small.manifest["details"]["sparse"]
    assert len(record["tensors"]) >= 2  # of the inner layers; TVM's kernels pad the last one's outputs with zeros
    assert (small.folder / sparse.FILE).exists()
    assert "sparse" not in dense.manifest["details"]
    weights = sum(one.dense_bytes - one.sparse_bytes for one in measured(program.tensors).values())
    assert dense.payload_size - small.payload_size >= weights - sparse.MARGIN * len(record["tensors"])
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 6, 6)).astype(np.float32)
        (one,), (other,) = dense.run(x), load(small.folder, threads=1).run(x)
        assert one.tobytes() == other.tobytes()
    given, wanted, rtol = conformance.vectors(small.folder, small.manifest)
    for found, expected in zip(small.run(*given), wanted.values(), strict=True):
        assert conformance.compared(expected, found, rtol)[0]
    _changed_files_are_seen(small)


def _changed_files_are_seen(artifact: Artifact) -> None:
    path = artifact.folder / sparse.FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"hash mismatch in 'sparse\.safetensors'"):
        load(artifact.folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"file 'sparse\.safetensors' is missing"):
        load(artifact.folder)


@pytest.mark.parametrize("target", ["reference", "onnx:qlinear"])
def test_what_has_no_zeros_stays_dense(target: str, tmp_path: Path) -> None:
    data = [(torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)]
    program = fx.Pipeline.parse("quantize-dyadic{integer_only=true}").run(_net(), calibration=data).program
    dense, asked = (lower(program, target, tmp_path / name, sparse=name == "asked") for name in ("dense", "asked"))
    assert asked.payload_size == dense.payload_size
    assert not (asked.folder / sparse.FILE).exists()
    assert asked.manifest["details"]["sparse"] == {"tensors": {}}


def test_the_same_program_gives_the_same_bytes(programs: dict[str, Program], tmp_path: Path) -> None:
    one, other = (lower(programs["integer"], "onnx:qlinear", tmp_path / name, sparse=True) for name in ("one", "other"))
    assert (one.folder / manifests.NAME).read_bytes() == (other.folder / manifests.NAME).read_bytes()


def test_float_weights_in_a_tvm_library_are_refused(programs: dict[str, Program], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="tvm:native: weights of float programs are part of the library; lower it without"):
        lower(programs["float"], "tvm:native", tmp_path / "model", sparse=True)
    with pytest.raises(BackendError, match="target 'onnx:int': has no kernels to choose between"):
        lower(programs["integer"], "onnx:int", tmp_path / "model", sparse=True, tune={})
