"""Weights of 2 to 8 bits: each stored at exactly its bits where the format has them, counted to the byte, and the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fxpress_backends import apart, bits
from fxpress_backends.artifact import Artifact, load, lower
from fxpress_ir import Edit, Program
from fxpress_ir.errors import ArtifactError
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from several import several
from support import conv, fxp
from torch import fx

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
SIDE = 80
ELEMENTS = SIDE * SIDE
"""Of each weight: multiples of what kernels pad to."""


@given(st.integers(1, 7), st.data())
def test_a_stream_holds_each_value_at_its_bits(width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    stream = bits.packed(np.array(values, np.uint8), width)
    assert len(stream) == bits.packed_bytes(len(values), width) == -(-len(values) * width // 8)
    assert int.from_bytes(stream.tobytes(), "little") == sum(value << width * place for place, value in enumerate(values))
    assert bits.unpacked(stream, width, len(values)).tolist() == values


@pytest.mark.parametrize(("count", "width", "dtype"), [(9, 4, np.uint8), (8, 4, np.int8), (4, 8, np.uint8), (0, 0, np.uint8)])
def test_what_is_no_stream_is_refused(count: int, width: int, dtype: type[Any]) -> None:
    with pytest.raises(ValueError, match="is no stream of"):
        bits.unpacked(np.zeros(4, dtype), width, count)


SIZE = 1 << 16


@given(st.integers(-128, 127), st.integers(0, 127), st.sampled_from(["int8", "uint8", "int16", "int32"]), st.booleans())
def test_what_spans_few_values_is_packed_wherever_it_lies(least: int, span: int, dtype: str, is_sparse: bool) -> None:
    limits = np.iinfo("int8" if dtype == "int32" else dtype)
    low = max(least, limits.min)
    most = min(low + span, limits.max)
    units = np.random.default_rng(span).integers(low, most + 1, SIZE)
    units[:2] = low, most
    array = units.astype("int8").view("int32") if dtype == "int32" else units.astype(dtype)
    found = apart.worthwhile({"w": array}, is_sparse=is_sparse)["w"]
    width = max(1, (most - low).bit_length())
    assert (found.width, found.size) == (width, SIZE * width // 8) if found.mask is None else found.size < SIZE * width // 8


def weight(generator: torch.Generator, width: int, *shape: int) -> torch.Tensor:
    """All that so many bits hold, their ends among it."""
    low, high = max(-127, -(1 << (width - 1))), (1 << (width - 1)) - 1
    values = torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int8)
    values.view(-1)[0], values.view(-1)[1] = low, high
    return values


def net(*widths: int) -> Program:
    """A linear of each width, and a convolution of the first, side by side."""
    generator = torch.Generator().manual_seed(0)

    def body(edit: Edit, x: fx.Node, image: fx.Node) -> list[fx.Node]:
        weights = [edit.add_tensor(f"w{number}", weight(generator, width, SIDE, SIDE)) for number, width in enumerate(widths)]
        outputs = [edit.call(fxp.linear.default, x, tensor, None) for tensor in weights]
        window, b = weight(generator, widths[0], SIDE, SIDE, 1, 1), torch.full((1,), 99, dtype=torch.int32)
        return [*outputs, conv(edit, image, window, None, b, 15, relu=True, padding=0)]

    return several([(("batch", SIDE), torch.int8), (("batch", SIDE, 3, 2), torch.uint8)], body)


ALL = net(*WIDTHS)
TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")


def inputs(batch: int) -> tuple[NDArray[Any], ...]:
    """Extremes, and anything between them."""
    generator = np.random.default_rng(batch)
    x = generator.integers(-128, 128, (batch, SIDE)).astype(np.int8)
    image = generator.integers(0, 256, (batch, SIDE, 3, 2)).astype(np.uint8)
    x[0], image[0] = np.where(x[0] < 0, -128, 127), np.where(image[0] < 99, 0, 255)
    return x, image


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_bits_at_every_width(target: str, tmp_path: Path) -> None:
    artifact = lower(ALL, target, tmp_path / "artifact")
    for batch in (1, 3):
        given = inputs(batch)
        wanted = ALL.run(*map(torch.from_numpy, given))
        for found, expected in zip(artifact.run(*given), wanted, strict=True):
            assert (found.dtype, found.tobytes()) == (expected.numpy().dtype, expected.numpy().tobytes())
    details = artifact.manifest["details"]
    if target.startswith("tvm"):
        _is_counted(artifact, {width: ELEMENTS * width // 8 for width in WIDTHS if width < 8})
    if target.startswith("onnx"):
        sizes = [(one["bits"], one["bytes"], one["dense_bytes"]) for one in details["packed"].values()]
        assert sorted(sizes) == [(2, ELEMENTS // 4, ELEMENTS)] * 2 + [(4, ELEMENTS // 2, ELEMENTS)] * 2
        held = {one.name: len(one.raw_data) for one in onnx.load(artifact.folder / "model.onnx").graph.initializer}
        assert {name: held[name] for name in details["packed"]} == {name: one["bytes"] for name, one in details["packed"].items()}


def _is_counted(artifact: Artifact, linears: dict[int, int]) -> None:
    """The record's bytes are those of the file, less its header and the forms; every width has its own, the first one two."""
    record = artifact.manifest["details"]["apart"]
    sizes = sorted((one["bits"], one["bytes"], one["dense_bytes"]) for one in record["tensors"].values())
    first = min(linears)
    assert sizes == sorted([(width, size, ELEMENTS) for width, size in linears.items()] + [(first, linears[first], ELEMENTS)])
    path = artifact.folder / record["file"]
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    forms = sum(8 * (6 + len(found.shape)) for found in apart.read(artifact.folder, record).values())
    counted = sum(one["bytes"] for one in record["tensors"].values())
    assert path.stat().st_size == artifact.manifest["files"][record["file"]]["size"] == header + forms + counted
    assert header + forms < apart.MARGIN * len(sizes)


PAGE = 4096
"""What a library's parts are rounded up to."""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return lower(net(4), "tvm:x86-64", tmp_path_factory.mktemp("packed") / "four")


def test_four_bits_take_half_of_eight(four: Artifact, tmp_path: Path) -> None:
    eight = lower(net(8), "tvm:x86-64", tmp_path / "eight")
    assert "apart" not in eight.manifest["details"]
    assert not (eight.folder / apart.FILE).exists()
    _is_counted(four, {4: ELEMENTS // 2})
    file = four.manifest["files"][apart.FILE]["size"]
    library = four.payload_size - file
    assert abs(eight.payload_size - library - 2 * ELEMENTS) <= PAGE
    assert 0 < file - ELEMENTS < 2 * apart.MARGIN


def test_a_changed_file_is_refused(four: Artifact, tmp_path: Path) -> None:
    """By its hash; and where hashes were right, by what it holds."""
    from fxpress_backends.tvm.run import load as opened  # with it comes TVM

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in four.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = (copy / apart.FILE).read_bytes()
    for damaged in (content[:-1], content[:100], b"", content.replace(b"form:", b"farm:", 1)):
        (copy / apart.FILE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"hash mismatch in 'weights\.safetensors'; lower the program again"):
            load(copy)
        with pytest.raises(ArtifactError, match=r"its weights in weights\.safetensors are malformed; lower the program again") as caught:
            opened(copy, four.manifest, {})
        assert "\n" not in str(caught.value)
    (copy / apart.FILE).unlink()
    with pytest.raises(ArtifactError, match=r"file 'weights\.safetensors' is missing"):
        load(copy)


def test_what_saves_little_stays_in_the_library() -> None:
    """Each for itself, and all together where nobody asked."""

    def weights(*sizes: int) -> dict[str, NDArray[Any]]:
        return {str(size): np.resize(np.arange(-8, 8, dtype=np.int8), size) for size in sizes}

    margin, least = 2 * apart.MARGIN, 2 * (apart.LEAST + apart.MARGIN)
    assert list(apart.worthwhile(weights(margin, margin + 2), is_sparse=True)) == [str(margin + 2)]
    assert list(apart.worthwhile(weights(margin, least - 2), is_sparse=False)) == []
    assert list(apart.worthwhile(weights(margin, least), is_sparse=False)) == [str(least)]
