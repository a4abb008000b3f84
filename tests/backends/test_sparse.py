"""Weights without their zeros, or at fewer bits, apart: the same bits back, fewer bytes or none, a file that lies is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_backends import apart, conformance
from fxpress_backends import manifest as manifests
from fxpress_backends.artifact import Artifact, load, lower
from fxpress_ir import Program
from fxpress_ir.analysis.sparsity import sparse as measured
from fxpress_ir.errors import ArtifactError, BackendError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
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
    folder = tmp_path_factory.mktemp("apart")
    for form in (apart.dense, apart.sparse):
        stored = {name: one for name in found if (one := form(found[name])) is not None}
        record = json.loads(json.dumps(apart.write(stored, folder)))
        again = apart.read(folder, record)
        assert list(again) == sorted(stored)
        for name, array in again.items():
            assert (array.dtype, array.shape, array.tobytes()) == (found[name].dtype, found[name].shape, found[name].tobytes())
            assert record["tensors"][name] == {"bits": stored[name].width, "bytes": stored[name].size, "dense_bytes": array.nbytes}


def test_only_what_gets_smaller_is_worthwhile(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal((64, 64)).astype(np.float32)
    half = np.where(generator.random((64, 64)) < 0.5, values, np.float32(0))
    offset = np.where(generator.random((64, 64)) < 0.5, generator.integers(0, 255, (64, 64)), 128).astype(np.uint8)
    found = {"half": half, "dense": values, "small": half[:4, :4], "offset": offset, "flags": np.zeros(9999, bool)}
    assert apart.worthwhile(found, is_sparse=False) == {}
    stored = apart.worthwhile(found, is_sparse=True)
    record = apart.write(stored, tmp_path)
    counted = measured({"half": torch.from_numpy(half)})["half"].sparse_bytes
    kept = 64 * 64 // 8 + int((offset != 128).sum())
    assert record["tensors"] == {
        "half": {"bits": 32, "bytes": counted, "dense_bytes": 4 * 64 * 64},
        "offset": {"bits": 8, "bytes": kept, "dense_bytes": 64 * 64},
    }
    headers = (tmp_path / apart.FILE).stat().st_size - counted - kept
    assert 0 < headers < 2 * apart.MARGIN


def _saved(folder: Path, **changed: NDArray[Any]) -> dict[str, Any]:
    """A file of a weight without its zeros and one of 4 bits, some of its arrays others; the record of the right one."""
    weight = np.random.default_rng(0).integers(-8, 8, (64, 64)).astype(np.int8)
    stored = {"packed": apart.dense(weight), "sparse": apart.sparse(np.eye(64, dtype=np.float32))}
    record = apart.write({name: one for name, one in stored.items() if one is not None}, folder)
    save_file({**load_file(folder / apart.FILE), **{name.replace("_", ":"): array for name, array in changed.items()}}, folder / apart.FILE)
    return record


def _form(*fields: int) -> NDArray[np.int64]:
    return np.array(fields, np.int64)


RIGHT = {"packed": (0, 8, 8, 4, -8, 0, 64, 64), "sparse": (2, 32, 32, 0, 0, 0, 64, 64)}
MALFORMED = {
    "a larger shape": {"form_packed": _form(0, 8, 8, 4, -8, 0, 65, 64)},
    "a smaller shape": {"form_sparse": _form(2, 32, 32, 0, 0, 0, 8, 8)},
    "a shape below 0": {"form_packed": _form(0, 8, 8, 4, -8, 0, -64, -64)},
    "no bits": {"form_packed": _form(0, 8, 8, 9, -8, 0, 64, 64)},
    "no unit": {"form_packed": _form(0, 8, 0, 4, -8, 0, 64, 64)},
    "no kind": {"form_packed": _form(3, 8, 8, 4, -8, 0, 64, 64)},
    "no type": {"form_packed": _form(0, 24, 8, 4, -8, 0, 64, 64)},
    "a least value that is none": {"form_packed": _form(0, 8, 8, 4, -129, 0, 64, 64)},
    "a fill that is none": {"form_sparse": _form(2, 32, 32, 0, 0, 2**40, 64, 64)},
    "a fill below 0": {"form_sparse": _form(2, 32, 32, 0, 0, -1, 64, 64)},
    "half a form": {"form_packed": _form(0, 8, 8)},
    "a form of another type": {"form_packed": np.array(RIGHT["packed"], np.int32)},
    "a stream of another length": {"values_packed": np.zeros(64 * 32 + 1, np.uint8)},
    "a stream of another type": {"values_packed": np.zeros(64 * 32, np.int8)},
    "too few values": {"values_sparse": np.ones(63, np.float32)},
    "values of another type": {"values_sparse": np.ones(64, np.int32)},
    "another mask": {"mask_sparse": np.zeros(64 * 8, np.uint8)},
    "half a mask": {"mask_sparse": np.zeros(64 * 4, np.uint8)},
    "one more": {"form_more": _form(*RIGHT["packed"]), "values_more": np.zeros(64 * 32, np.uint8)},
}


def test_the_right_file_is_read(tmp_path: Path) -> None:
    found = apart.read(tmp_path, _saved(tmp_path, **{f"form_{name}": _form(*form) for name, form in RIGHT.items()}))
    assert {name: array.dtype.name for name, array in found.items()} == {"packed": "int8", "sparse": "float32"}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_an_error(case: str, tmp_path: Path) -> None:
    record = _saved(tmp_path, **MALFORMED[case])
    with pytest.raises(ArtifactError, match=r"its weights in weights\.safetensors are malformed; lower the program again") as caught:
        apart.read(tmp_path, record)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    record = _saved(tmp_path)
    (tmp_path / apart.FILE).write_bytes(b"no safetensors")
    for wrong in (record, {**record, "file": "other"}, {"tensors": record["tensors"]}, {**record, "tensors": 1}):
        with pytest.raises(ArtifactError, match=r"its weights in weights\.safetensors are malformed"):
            apart.read(tmp_path, wrong)


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
    record = small.manifest["details"]["apart"]
    assert len(record["tensors"]) >= 2  # of the inner layers; TVM's kernels pad the last one's outputs with zeros
    assert (small.folder / apart.FILE).exists()
    assert "apart" not in dense.manifest["details"]
    weights = sum(one.dense_bytes - one.sparse_bytes for one in measured(program.tensors).values())
    assert dense.payload_size - small.payload_size >= weights - apart.MARGIN * len(record["tensors"])
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 6, 6)).astype(np.float32)
        (one,), (other,) = dense.run(x), load(small.folder, threads=1).run(x)
        assert one.tobytes() == other.tobytes()
    given, wanted, rtol = conformance.vectors(small.folder, small.manifest)
    for found, expected in zip(small.run(*given), wanted.values(), strict=True):
        assert conformance.compared(expected, found, rtol)[0]
    _changed_files_are_seen(small)


def _changed_files_are_seen(artifact: Artifact) -> None:
    path = artifact.folder / apart.FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"hash mismatch in 'weights\.safetensors'"):
        load(artifact.folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"file 'weights\.safetensors' is missing"):
        load(artifact.folder)


@pytest.mark.parametrize("target", ["reference", "onnx:qlinear"])
def test_what_has_no_zeros_stays_dense(target: str, tmp_path: Path) -> None:
    data = [(torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)]
    program = fx.Pipeline.parse("quantize-dyadic{integer_only=true}").run(_net(), calibration=data).program
    dense, asked = (lower(program, target, tmp_path / name, sparse=name == "asked") for name in ("dense", "asked"))
    assert asked.payload_size == dense.payload_size
    assert not (asked.folder / apart.FILE).exists()
    assert asked.manifest["details"]["apart"] == {"tensors": {}}


def test_the_same_program_gives_the_same_bytes(programs: dict[str, Program], tmp_path: Path) -> None:
    one, other = (lower(programs["integer"], "onnx:qlinear", tmp_path / name, sparse=True) for name in ("one", "other"))
    assert (one.folder / manifests.NAME).read_bytes() == (other.folder / manifests.NAME).read_bytes()


def test_float_weights_in_a_tvm_library_are_refused(programs: dict[str, Program], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="tvm:native: weights of float programs are part of the library; lower it without"):
        lower(programs["float"], "tvm:native", tmp_path / "model", sparse=True)
    with pytest.raises(BackendError, match="target 'onnx:int': has no kernels to choose between"):
        lower(programs["integer"], "onnx:int", tmp_path / "model", sparse=True, tune={})
