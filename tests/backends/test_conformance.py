"""Conformance vectors: the program's own outputs, inside the artifact, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from fxpress_backends import conformance
from fxpress_backends.artifact import lower
from fxpress_ir.ops import arguments
from safetensors.numpy import load_file
from support import built, fxp, residual_net


def test_vectors_are_what_the_program_gives(tmp_path: Path) -> None:
    program = residual_net()
    recorded = conformance.write(program, tmp_path)
    arrays = load_file(tmp_path / recorded["file"])
    assert recorded["exact"] is True
    outputs = program.run(*(torch.from_numpy(arrays[name]) for name in recorded["inputs"]))
    for name, expected in zip(recorded["outputs"], outputs, strict=True):
        assert np.array_equal(arrays[name], expected.numpy())


def test_floats_reach_beyond_both_ends_of_the_quantised_range(tmp_path: Path) -> None:
    program = residual_net()
    border = arguments(program.graph.find_nodes(op="call_function", target=fxp.quantize.default)[0])
    recorded = conformance.write(program, tmp_path)
    values = load_file(tmp_path / recorded["file"])[recorded["inputs"][0]]
    assert values.min() < border["qmin"] * border["scale"]
    assert values.max() > border["qmax"] * border["scale"]


def test_integer_inputs_fill_their_type(tmp_path: Path) -> None:
    program = built((1, 1, 32, 32), lambda edit, x: edit.call(fxp.max_pool2d.default, x, [1, 1], [1, 1], [0] * 4, [1, 1]), dtype=torch.int8)
    recorded = conformance.write(program, tmp_path)
    values = load_file(tmp_path / recorded["file"])[recorded["inputs"][0]]
    assert values.dtype == np.int8
    assert values.min() < -120
    assert values.max() > 120


def test_an_artifact_carries_them_and_its_payload_size_does_not_count_them(tmp_path: Path) -> None:
    artifact = lower(residual_net(), "reference", tmp_path / "net")
    recorded = artifact.manifest["conformance"]
    arrays = load_file(artifact.folder / recorded["file"])
    found = artifact.run(*(arrays[name] for name in recorded["inputs"]))
    assert all(np.array_equal(a, arrays[name]) for a, name in zip(found, recorded["outputs"], strict=True))
    files = artifact.manifest["files"]
    assert artifact.payload_size == sum(entry["size"] for name, entry in files.items() if name in ("graph.json", "tensors.safetensors"))


def test_two_writings_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        conformance.write(residual_net(), tmp_path / name)
    assert (tmp_path / "a" / conformance.FILE).read_bytes() == (tmp_path / "b" / conformance.FILE).read_bytes()
