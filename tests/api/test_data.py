"""Calibration data from arrays, images and factories: every sample in order, one batch at a time, each walk the same."""

from __future__ import annotations

import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress.batching import Batching
from fxpress.data import Data, open_data
from fxpress_ir import Dimension, InputSpec
from fxpress_ir.errors import CalibrationError, FxpressError, InputError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

BATCH = Dimension("batch")
VECTOR = InputSpec("x", (BATCH, 3), torch.float32)
IDS = InputSpec("ids", (BATCH, Dimension("length", 1, 8)), torch.int64)
COLOUR, GREY = (InputSpec("x", (BATCH, channels, 4, 6), torch.float32) for channels in (3, 1))


def samples(count: int, *shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(count).integers(-9, 9, (count, *shape)).astype(dtype)


def walked(data: Data, *inputs: InputSpec) -> list[tuple[Any, ...]]:
    batches = open_data(data, inputs)
    first, second = list(batches), list(batches)
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert all(map(np.array_equal, one, other))
    return first


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_found_by_the_names_of_the_inputs(save: Callable[..., None], tmp_path: Path) -> None:
    ids, x = samples(10, 5, dtype=np.int64), samples(10, 3)
    save(tmp_path / "two.npz", labels=samples(7, 1), x=x, ids=ids)
    batches = walked(Data(str(tmp_path / "two.npz"), batch_size=4), IDS, VECTOR)
    assert [len(part) for part, _ in batches] == [4, 4, 2]
    for place, whole in enumerate((ids, x)):
        joined = np.concatenate([batch[place] for batch in batches])
        assert joined.dtype == whole.dtype
        assert np.array_equal(joined, whole)


def test_a_single_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", samples(5, 3))
    assert [len(batch[0]) for batch in walked(Data(str(tmp_path / "one.npz")), VECTOR)] == [5]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 50), size=st.integers(1, 20), limit=st.none() | st.integers(1, 60))
def test_no_sample_is_lost_or_doubled(count: int, size: int, limit: int | None, tmp_path: Path) -> None:
    x = samples(count, 3)
    np.savez(tmp_path / "x.npz", x)
    batches = list(open_data(Data(str(tmp_path / "x.npz"), size, limit), [VECTOR]))
    assert np.array_equal(np.concatenate([batch[0] for batch in batches]), x[: limit or count])
    assert all(len(batch[0]) == size for batch in batches[:-1])


def test_memory_holds_a_batch_not_the_array(tmp_path: Path) -> None:
    spec = InputSpec("x", (BATCH, 1024), torch.float32)
    np.savez_compressed(tmp_path / "x.npz", np.zeros((4096, 1024), np.float32))
    tracemalloc.start()
    for _ in open_data(Data(str(tmp_path / "x.npz"), batch_size=8), [spec]):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_fixed_batch_is_kept_and_what_does_not_fill_one_is_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", samples(10, 3))
    fixed = InputSpec("x", (4, 3), torch.float32)
    assert [len(batch[0]) for batch in walked(Data(str(tmp_path / "x.npz")), fixed)] == [4, 4]


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((BATCH,), None, 32), ((Dimension("b", 1, 8),), None, 8), ((Dimension("b", 40),), None, 40), ((5,), 5, 5)],
)
def test_the_batch_size_is_what_the_input_admits(shape: tuple[Any, ...], size: int | None, expected: int) -> None:
    assert Batching.of([InputSpec("x", shape, torch.float32)], size, None, "").size == expected


ARRAYS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "another name": ({"images": samples(4, 3), "labels": samples(4, 1)}, {}, ("no array 'x'", "'images'", "'labels'")),
    "no array": ({}, {}, ("no array 'x'",)),
    "wrong shape": ({"x": samples(4, 2)}, {}, ("'x'", "dimension 1", "[4, 2]")),
    "wrong rank": ({"x": samples(4)}, {}, ("'x'", "1 dimensions")),
    "wrong dtype": ({"x": samples(4, 3, dtype=np.float64)}, {}, ("float64", "float32", "astype")),
    "other byte order": ({"x": samples(4, 3, dtype=">f4")}, {}, (">f4",)),
    "objects": ({"x": np.array([[None] * 3] * 4)}, {}, ("'x'", "pickle")),
    "Fortran order": ({"x": np.asfortranarray(samples(4, 3))}, {}, ("Fortran", "ascontiguousarray")),
    "no samples": ({"x": samples(0, 3)}, {}, ("0 samples",)),
    "a mean for arrays": ({"x": samples(4, 3)}, {"mean": (0.5,)}, ("mean", "images")),
    "batch size 0": ({"x": samples(4, 3)}, {"batch_size": 0}, ("batch_size is 0",)),
    "limit 0": ({"x": samples(4, 3)}, {"limit": 0}, ("limit is 0",)),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    arrays, options, words = ARRAYS[case]
    np.savez(tmp_path / "x.npz", **arrays)
    refused(Data(str(tmp_path / "x.npz"), **options), [VECTOR], "x.npz", *words)


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=samples(4, 3), ids=samples(5, 2, dtype=np.int64))
    refused(Data(str(tmp_path / "x.npz")), [VECTOR, IDS], "'x' 4", "'ids' 5")


def test_a_batch_size_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", samples(10, 3))
    refused(Data(str(tmp_path / "x.npz"), batch_size=3), [InputSpec("x", (4, 3), torch.float32)], "batch_size is 3", "takes 4")


def truncated(path: Path) -> None:
    np.savez(path, samples(4, 3))
    with zipfile.ZipFile(path) as file:
        content = file.read("arr_0.npy")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", content[:-5])


def corrupted(path: Path) -> None:
    np.savez_compressed(path, samples(500, 3))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no archive": (lambda path: path.write_text("1,2,3"), "no intact .npz"),
    "a folder entry that is no array": (lambda path: zipped(path, "x.npy", b"hello"), "no intact .npz"),
    "a header of a later format": (lambda path: zipped(path, "x.npy", b"\x93NUMPY\x03\x00" + bytes(100)), "format version"),
    "cut off": (truncated, "ends early"),
    "bytes changed": (corrupted, "no intact .npz"),
}


def zipped(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, content)


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_is_named(case: str, tmp_path: Path) -> None:
    damage, word = FILES[case]
    damage(tmp_path / "x.npz")
    refused(Data(str(tmp_path / "x.npz")), [VECTOR], "x.npz", word)


def refused(data: Data, inputs: list[InputSpec], *words: str) -> None:
    with pytest.raises(FxpressError) as caught:
        list(open_data(data, inputs))
    assert isinstance(caught.value, CalibrationError | InputError)
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.way_on
    for word in words:
        assert word in line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of other sizes and modes than the model's, one in a folder of its own."""
    generator = np.random.default_rng(0)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for name, mode, shape in (("b.png", "RGB", (8, 12, 3)), ("cat/a.bmp", "L", (4, 6)), ("a.webp", "RGB", (5, 5, 3))):
        Image.fromarray(generator.integers(0, 256, shape, np.uint8), mode).save(tmp_path / "images" / name, lossless=True)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.mark.parametrize(("spec", "mode"), [(COLOUR, "RGB"), (GREY, "L")])
def test_images_come_converted_resized_and_scaled_in_the_order_of_their_paths(folder: Path, spec: InputSpec, mode: str) -> None:
    (batch,) = walked(Data(str(folder)), spec)
    assert batch[0].dtype == np.float32
    for found, name in zip(batch[0], ("a.webp", "b.png", "cat/a.bmp"), strict=True):
        with Image.open(folder / name) as image:
            pixels = np.asarray(image.convert(mode).resize((6, 4), Image.Resampling.BILINEAR))
        assert np.array_equal(found, pixels.reshape(4, 6, -1).transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_images_are_normalised_by_channel(folder: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    plain, normal = (walked(data, COLOUR)[0][0] for data in (Data(str(folder)), Data(str(folder), mean=mean, std=std)))
    for channel in range(3):
        expected = (plain[:, channel] - np.float32(mean[channel])) / np.float32(std[channel])
        assert np.array_equal(normal[:, channel], expected)


def test_images_are_batched_and_limited(folder: Path) -> None:
    assert [len(batch[0]) for batch in walked(Data(str(folder), batch_size=1, limit=2), COLOUR)] == [1, 1]


def test_an_image_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "aa.png").write_bytes((folder / "b.png").read_bytes()[:60])
    refused(Data(str(folder)), [COLOUR], "aa.png", "cannot be read")


@pytest.mark.parametrize(
    ("spec", "options", "word"),
    [
        (VECTOR, {}, "no float32 [batch, 1 or 3, height, width]"),
        (InputSpec("x", (BATCH, 4, 4, 6), torch.float32), {}, "1 or 3"),
        (InputSpec("x", (BATCH, 3, Dimension("h"), 6), torch.float32), {}, "fixed height"),
        (InputSpec("x", (BATCH, 3, 4, 6), torch.uint8), {}, "float32"),
        (COLOUR, {"mean": (0.5, 0.5)}, "for 3 channels"),
        (COLOUR, {"std": (0.0,)}, "not positive"),
        (COLOUR, {"mean": (float("nan"),)}, "finite"),
    ],
)
def test_images_for_another_input_are_refused(folder: Path, spec: InputSpec, options: dict[str, Any], word: str) -> None:
    refused(Data(str(folder), **options), [spec], "images", word)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    refused(Data(str(tmp_path)), [COLOUR], "no images")


def test_images_for_two_inputs_are_refused(folder: Path) -> None:
    refused(Data(str(folder)), [COLOUR, IDS], "2 inputs")


@pytest.mark.parametrize(("source", "word"), [("nothing.npz", "no such file"), ("nothing", "no such file"), ("x.csv", "neither")])
def test_a_source_that_is_not_there_or_unknown_is_refused(source: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("1,2,3")
    refused(Data(source), [VECTOR], source, word)


FACTORIES = """
import torch

def batches():
    return [(torch.full((4, 3), float(place)),) for place in range(3)]

def stream():
    yield from batches()

def alone():
    return [torch.ones(2, 3)]

def nothing():
    return 7

def broken():
    raise KeyError("weights")

def late():
    yield (torch.ones(2, 3),)
    raise OSError("disk gone")

def odd():
    return [3, 4]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder."""
    (tmp_path / "its_data.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield "its_data"
    sys.modules.pop("its_data", None)


@pytest.mark.parametrize("name", ["batches", "stream"])
def test_a_factory_gives_its_batches_again_and_again(module: str, name: str) -> None:
    batches = walked(Data(f"{module}:{name}"), VECTOR)
    assert [float(batch[0][0, 0]) for batch in batches] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("name", ["batches", "stream"])
def test_a_factory_is_cut_after_the_limit(module: str, name: str) -> None:
    assert [len(batch[0]) for batch in walked(Data(f"{module}:{name}", limit=6), VECTOR)] == [4, 2]


def test_a_lone_tensor_is_a_batch(module: str) -> None:
    assert [tuple(batch[0].shape) for batch in walked(Data(f"{module}:alone"), VECTOR)] == [(2, 3)]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nothing", {}, ("returned a int", "iterable")),
        ("broken", {}, ("KeyError", "weights", "its_data.py:17")),
        ("late", {}, ("OSError", "disk gone")),
        ("odd", {"limit": 3}, ("no samples to count",)),
        ("missing", {}, ("no attribute 'missing'",)),
        ("batches", {"batch_size": 2}, ("own batches",)),
        ("batches", {"mean": (0.5,)}, ("mean",)),
    ],
)
def test_a_factory_that_gives_no_batches_is_refused(module: str, name: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(Data(f"{module}:{name}", **options), [VECTOR], f"{module}:{name}", *words)
