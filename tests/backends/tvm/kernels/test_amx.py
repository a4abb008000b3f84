"""Tiles in C mean what AMX's do, and refuse what it refuses; the same kernels compile to AMX's own instructions."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from amx_cases import transformer_block
from fxpress_backends.tvm import TVM, cpu
from fxpress_backends.tvm import __file__ as package
from hypothesis import given, settings
from hypothesis import strategies as st

SOURCE = Path(package).with_name("amx_emulated.cpp")
_, VNNI, AMX = cpu.levels(())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    built = tmp_path_factory.mktemp("amx") / "tiles.so"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", SOURCE, "-o", built], check=True)
    return built


def configuration(rows: int, words: int, lanes: int) -> np.ndarray:
    """Tile 0: rows x lanes sums; 1: rows x words of inputs; 2: words x lanes of weights."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    for tile, (height, width) in enumerate([(rows, 4 * lanes), (rows, 4 * words), (words, 4 * lanes)]):
        config[16 + 2 * tile], config[48 + tile] = width, height
    return config


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_products_are_those_of_integers(library: Path, rows: int, words: int, lanes: int, seed: int) -> None:
    """Bytes at their extremes, sums that wrap, rows apart in memory, and one row loaded again and again."""
    tiles, generator = ctypes.CDLL(str(library)), np.random.default_rng(seed)
    x = generator.choice(np.array([0, 1, 128, 255], np.uint8), (rows, 80))
    w = generator.choice(np.array([-128, -1, 3, 127], np.int8), (words, lanes, 4))
    bias = generator.integers(-(2**31), 2**31, lanes).astype(np.int32)
    found, config = np.full((rows, 20), 7, np.int32), configuration(rows, words, lanes)
    tiles.fxpress_ldtilecfg(config.ctypes.data_as(ctypes.c_void_p))
    for tile, array, stride in ((0, bias, 0), (1, x, 80), (2, w, 4 * lanes)):
        tiles.fxpress_tileloadd64(ctypes.c_uint8(tile), array.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(stride))
    tiles.fxpress_tdpbusd(*map(ctypes.c_uint8, (0, 1, 2)))
    tiles.fxpress_tilestored64(ctypes.c_uint8(0), found.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(80))
    tiles.fxpress_tilerelease()
    products = np.einsum("mki,kni->mn", x[:, : 4 * words].reshape(rows, words, 4).astype(np.int64), w.astype(np.int64))
    np.testing.assert_array_equal(found[:, :lanes], (products + bias).astype(np.int32))
    assert (found[:, lanes:] == 7).all()


REFUSED = (
    ("t.fxpress_tilezero(0)", "emulated tilezero: this thread has no configuration"),
    ("configure((16, 64)); t.fxpress_tilezero(1)", "emulated tilezero: the tile is not configured"),
    ("configure((16, 64)); t.fxpress_tilerelease(); t.fxpress_tilezero(0)", "emulated tilezero: this thread has no configuration"),
    (
        "configure((16, 64)); import threading; r = threading.Thread(target=lambda: t.fxpress_tilezero(0)); r.start(); r.join()",
        "emulated tilezero: this thread has no configuration",
    ),
    ("configure((17, 64))", "emulated ldtilecfg: a tile is larger than 16 rows of 64 bytes"),
    ("configure((16, 0))", "emulated ldtilecfg: a tile has rows without bytes, or bytes without rows"),
    ("configure((16, 64), palette=2)", "emulated ldtilecfg: the palette is not 1"),
    (
        "configure((16, 64), (15, 64), (16, 64)); t.fxpress_tdpbusd(0, 1, 2)",
        "emulated tdpbusd: the rows of the sums are not those of the first factor",
    ),
    (
        "configure((16, 64), (16, 60), (16, 64)); t.fxpress_tdpbusd(0, 1, 2)",
        "emulated tdpbusd: the words of the first factor are not the rows of the second",
    ),
    (
        "configure((16, 64), (16, 64), (16, 60)); t.fxpress_tdpbusd(0, 1, 2)",
        "emulated tdpbusd: the columns of the sums are not those of the second factor",
    ),
    ("configure((16, 64), (16, 64)); t.fxpress_tdpbusd(0, 1, 1)", "emulated tdpbusd: two of its tiles are one"),
)
_CONFIGURE = """
import ctypes, sys
t = ctypes.CDLL(sys.argv[1])
def configure(*tiles, palette=1):
    config = bytearray(64)
    config[0] = palette
    for number, (rows, width) in enumerate(tiles):
        config[16 + 2 * number], config[48 + number] = width, rows
    t.fxpress_ldtilecfg(bytes(config))
"""


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_raises_an_exception_on_amx_ends_the_process(body: str, message: str, library: Path) -> None:
    ended = subprocess.run([sys.executable, "-S", "-c", f"{_CONFIGURE}\n{body}", library], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[0] == message


INSTRUCTIONS = {"ldtilecfg", "tilerelease", "tileloadd", "tilestored", "tdpbusd", "tilezero"}


def instructions(library: Path) -> set[str]:
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in listing.splitlines() if line.startswith(" ") and len(line.split()) > 1}


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_kernels_compile_to_the_instructions_of_their_target(tmp_path: Path) -> None:
    """Linked here, run on a CPU that has them; those of the level below hold none."""
    seen = {}
    for target in (AMX, VNNI):
        folder = tmp_path / target.name.replace(":", "-")
        folder.mkdir()
        details = TVM.lower(transformer_block(), target, folder)
        assert details["unchecked"].startswith("linked for another kind of machine")
        seen[target.name] = instructions(folder / details["library"]) & {*INSTRUCTIONS, "vpdpbusd"}
    assert seen.pop(AMX.name) >= INSTRUCTIONS
    assert seen[VNNI.name] == {"vpdpbusd"}
