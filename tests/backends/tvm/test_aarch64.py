"""The program's bits on aarch64, by the runner for boards, under QEMU: ARMv8.0, ARMv8.2 with dot products, and i8mm above them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from computed_cases import drawn, runs, together
from fxpress import zoo
from fxpress_backends.artifact import lower
from fxpress_backends.contract import Target
from fxpress_backends.tvm import RUNNER, pack
from fxpress_backends.tvm.cross import AARCH64, MACHINES
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.sizes import padded
from fxpress_ir import Edit, Program, capture
from fxpress_passes.pipeline import Pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from several import several
from support import attending_net, moving_net, residual_net
from torch import Tensor, fx
from tvm_cases import S8, S16, U8, Body, Limits, biases, convolution, weights

SYSROOT = Path("/usr/aarch64-linux-gnu")
QEMU = "qemu-aarch64-static"
OLDEST = "cortex-a53"
"""An ARMv8.0-A CPU: what it does not know ends in an illegal instruction."""
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so")
DISTRIBUTIONS = ("apache-tvm", "apache-tvm-ffi")
NEWER = "neoverse-n1"
"""An ARMv8.2-A CPU with dot products."""
NEWEST = "max"
"""All that QEMU knows, i8mm among it."""
ON = {"tvm:aarch64": OLDEST, "tvm:aarch64-dotprod": NEWER, "tvm:aarch64-i8mm": NEWEST}
"""target ==> the CPU that QEMU plays."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def program_inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0])) * 3


@pytest.fixture(scope="session")
def runtime() -> Path:
    """A folder with TVM's runtime for aarch64, out of the wheels of the versions installed here; fetched once."""
    versions = {name: version(name) for name in DISTRIBUTIONS}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxpress-tests"
    folder = cache / "-".join(["aarch64", *versions.values()])
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as workshop:
        wheels, made = Path(workshop, "wheels"), Path(workshop, "made")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=0", "--timeout=20"]
        platforms = ["--platform=manylinux_2_28_aarch64", "--platform=manylinux2014_aarch64"]
        wanted = [f"{name}=={number}" for name, number in versions.items()]
        fetched = subprocess.run([*command, *platforms, f"--dest={wheels}", *wanted], capture_output=True, text=True)
        if fetched.returncode != 0:
            last = (fetched.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            pytest.skip(f"TVM's wheels for aarch64 cannot be fetched: {last}")
        made.mkdir()
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if Path(name).name in LIBRARIES:
                        (made / Path(name).name).write_bytes(archive.read(name))
        with suppress(OSError):  # another process of tests was first
            made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def run(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``run(folder, tensors, results, threads=2, cpu=OLDEST)``: the product's runner, compiled once, under QEMU."""
    machine = MACHINES[AARCH64]
    for command, package in ((machine.compiler, machine.package), (QEMU, "qemu-user-static")):
        if shutil.which(command) is None:
            pytest.skip(f"no {command}: install Debian's {package}")
    import tvm_ffi.libinfo as ffi

    runner = tmp_path_factory.mktemp("runner") / "run"
    headers = [f"-I{path}" for path in (ffi.find_include_path(), ffi.find_dlpack_include_path())]
    linked = ["-Wl,--no-as-needed", f"-L{runtime}", "-ltvm_runtime", "-ltvm_ffi", f"-Wl,-rpath,{runtime}", "-o", str(runner)]
    compiler = [machine.compiler, "-std=c++17", "-Wall", "-Werror"]
    subprocess.run([*compiler, *(path.replace("-I", "-isystem", 1) for path in headers), str(RUNNER), *linked], check=True)

    def under_qemu(folder: Path, *files: Path, threads: int = 2, model: str = OLDEST) -> subprocess.CompletedProcess[str]:
        (library,) = folder.glob("model-*.so")
        command = [QEMU, "-cpu", model, "-L", str(SYSROOT), str(runner), str(library), *map(str, files)]
        environment = {**os.environ, "TVM_NUM_THREADS": str(threads)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    return under_qemu


Runs = tuple[Program, Sequence[tuple[Tensor, ...]]]


def digits() -> Runs:
    entry = zoo.load("digits-cnn")
    program = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    integer = Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}").run(program, calibration=entry.calibration).program
    return integer, [(entry.held_out[0][:1],), (entry.held_out[0][1:8],)]


DENSE, POINT, STRIDED, GROUPED, DEPTHWISE, NARROW, PIXEL = (
    # inputs, outputs, groups, (height, width), kernel, stride, padding (top, left, bottom, right), dilation
    (20, 40, 1, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (33, 17, 1, (3, 20), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (16, 48, 1, (9, 7), (3, 2), (2, 1), (3, 0, 3, 2), (3, 2)),
    (32, 64, 8, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (18, 18, 18, (7, 7), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (3, 16, 1, (6, 5), (3, 3), (2, 2), (1, 1, 0, 1), (1, 1)),
    (24, 16, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
)
CONVOLUTIONS: Sequence[tuple[Any, torch.dtype, Limits | None, str]] = (
    (DENSE, torch.int8, S8, "conv2d_sdot"),
    (DENSE, torch.uint8, U8, "conv2d_sdot"),
    (POINT, torch.uint8, None, "conv2d_sdot"),
    (STRIDED, torch.uint8, S8, "conv2d_sdot"),
    (STRIDED, torch.int8, S16, "conv2d_sdot"),
    (GROUPED, torch.uint8, S8, "conv2d_sdot"),
    (NARROW, torch.int8, U8, "conv2d_sdot"),
    (PIXEL, torch.uint8, None, "conv2d_sdot"),
    (DEPTHWISE, torch.uint8, U8, "conv2d_depthwise_sdot"),
    (DEPTHWISE, torch.int8, S16, "conv2d_depthwise_sdot"),
    (POINT, torch.int16, None, "conv2d_loops"),
)
LINEAR = tuple(((*rows, 50), outputs, dtype) for rows, outputs in (((7,), 17), ((), 48)) for dtype in (torch.int8, torch.uint8))


WIDE = "dot products take bytes, its input has 16 bits"


def linear(outputs: int) -> Body:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(outputs)
        values = edit.add_tensor("weight", weights(generator, outputs, 50)), edit.add_tensor("bias", biases(generator, outputs))
        return edit.call(torch.ops.fxp.linear.default, x, *values)

    return body


def residual(edit: Edit, x: fx.Node) -> fx.Node:
    """A convolution added to its input in registers."""
    own = convolution((20, 20, *DENSE[2:]), 1, S8)(edit, x)
    return edit.call(torch.ops.fxp.add.default, own, x, 15001, -9877, 14, *S8)


def extremes() -> Runs:
    """Every kind of convolution and linear side by side, on the ends of their types."""
    cases: list[tuple[tuple[int, ...], torch.dtype, Body]] = [
        ((case[0], *case[3]), dtype, convolution(case, number, limits)) for number, (case, dtype, limits, _) in enumerate(CONVOLUTIONS)
    ]
    cases += [(shape, dtype, linear(outputs)) for shape, outputs, dtype in LINEAR]
    cases.append(((20, 5, 6), torch.int8, residual))

    def body(edit: Edit, *inputs: fx.Node) -> list[fx.Node]:
        return [make(edit, x) for x, (_, _, make) in zip(inputs, cases, strict=True)]

    generator = torch.Generator().manual_seed(0)
    limits = [(torch.iinfo(dtype).min, torch.iinfo(dtype).max) for _, dtype, _ in cases]
    pairs = zip(cases, limits, strict=True)
    drawn = [torch.randint(low, high + 1, (3, *shape), generator=generator) for (shape, _, _), (low, high) in pairs]
    batches = [drawn, [torch.full_like(x, low)[:1] for x, (low, _) in zip(drawn, limits, strict=True)]]
    batches.append([torch.full_like(x, high)[:1] for x, (_, high) in zip(drawn, limits, strict=True)])
    program = several([(("batch", *shape), dtype) for shape, dtype, _ in cases], body)
    return program, [tuple(x.to(dtype) for x, (_, dtype, _) in zip(batch, cases, strict=True)) for batch in batches]


def test_what_dot_products_take(targets: Mapping[str, Target]) -> None:
    program = plan(extremes()[0], targets["tvm:aarch64-dotprod"])
    assert [group.kernel for group in program.groups if group.kernel.startswith("linear")] == ["linear_sdot"] * len(LINEAR)
    groups = [group for group in program.groups if group.kernel.startswith("conv2d")]
    assert [group.kernel for group in groups] == [*(kernel for *_, kernel in CONVOLUTIONS), "conv2d_sdot"]
    assert [group.why for group in groups][-3:-1] == ["", WIDE]


def test_what_widening_products_take(targets: Mapping[str, Target], fixed: Callable[..., Program]) -> None:
    """Before ARMv8.2: all but depthwise and 16 bits, and weights whose products do not fit 16 bits."""
    groups = plan(extremes()[0], targets["tvm:aarch64"]).groups
    loops = {DEPTHWISE: "18 groups of 1 inputs and 1 outputs"}
    expected = [
        ("conv2d_loops", WIDE if dtype == torch.int16 else loops[case]) if dtype == torch.int16 or case in loops else ("conv2d_smull", "")
        for case, dtype, *_ in CONVOLUTIONS
    ]
    assert [(group.kernel, group.why) for group in groups if group.kernel.startswith("conv2d")] == [*expected, ("conv2d_smull", "")]
    assert [group.kernel for group in groups if group.kernel.startswith("linear")] == ["linear_smull"] * len(LINEAR)

    def least(edit: Edit, x: fx.Node) -> fx.Node:
        weight = torch.full((16, 50), -128, dtype=torch.int8)
        return edit.call(torch.ops.fxp.linear.default, x, edit.add_tensor("weight", weight), None)

    row = plan(fixed(torch.zeros(2, 50, dtype=torch.int8), least), targets["tvm:aarch64"]).groups[1]
    assert (row.kernel, row.why) == ("linear_loops", "with a weight of -128 two products may not fit 16 bits")


def test_what_products_of_matrices_take(targets: Mapping[str, Target], fixed: Callable[..., Program]) -> None:
    """What does not fill them stays with dot products, and the plan says why."""
    program = plan(extremes()[0], targets["tvm:aarch64-i8mm"])
    assert [group.kernel for group in program.groups if group.kernel.startswith("linear")] == ["linear_mmla"] * len(LINEAR)
    groups = [group for group in program.groups if group.kernel.startswith("conv2d")]
    apart = {
        NARROW: ("conv2d_sdot", "products of matrices take 8 channels at a time, a position has 4"),
        PIXEL: ("conv2d_sdot", "products of matrices take 2 positions, there is one"),
        DEPTHWISE: ("conv2d_depthwise_sdot", ""),
    }
    wide = ("conv2d_loops", WIDE)
    expected = [wide if dtype == torch.int16 else apart.get(case, ("conv2d_mmla", "")) for case, dtype, *_ in CONVOLUTIONS]
    assert [(group.kernel, group.why) for group in groups] == [*expected, ("conv2d_mmla", "")]
    assert "add" in groups[-1].attributes
    assert apart[NARROW][1] in str(program)
    row = plan(fixed(torch.zeros(1, 50, dtype=torch.int8), linear(17)), targets["tvm:aarch64-i8mm"])
    assert [group.why for group in row.groups if group.kernel == "linear_sdot"] == [apart[PIXEL][1]]


@given(st.integers(1, 40), st.integers(1, 19), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_weights_by_eight_are_found_where_the_kernel_looks(outputs: int, inputs: int, width: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-128, 128, (outputs, inputs, 1, width))
    stored = padded(inputs, 8)
    found = pack.eights_of_words(pack.weights_by_word(weight, padded(outputs, 16), stored))
    for o, i, tap in product(range(outputs), range(inputs), range(width)):
        assert found[o // 16, (tap * stored + i) // 8, o % 16 * 8 + i % 8] == weight[o, i, 0, tap]
    assert np.abs(found.astype(int)).sum() == np.abs(weight).sum()


def computed(*seeds: int) -> Runs:
    """Products of computed matrices, attention, depthwise convolutions and tables, of random shapes."""
    cases = [case for seed in seeds for case in drawn(seed)]
    return together(cases), [tuple(inputs) for inputs in runs(cases)]


def test_what_computed_matrices_take(targets: Mapping[str, Target]) -> None:
    """Dot products of bytes with keys, values and right sides that have a sign."""
    program = computed(1, 2, 4)[0]
    for target, kind in (("tvm:aarch64", "loops"), ("tvm:aarch64-dotprod", "sdot"), ("tvm:aarch64-i8mm", "usdot")):
        groups = [group for group in plan(program, targets[target]).groups if group.kernel.startswith(("matmul", "attention"))]
        last = "its second operand has no sign" if kind != "loops" else "the target has no dot products"
        assert [group.kernel for group in groups] == [*[f"matmul_{kind}", f"attention_{kind}"] * 2, f"matmul_{kind}", "attention_loops"]
        assert groups[-1].why == last


PROGRAMS: Mapping[str, Callable[[], Runs]] = {
    "digits-cnn": digits,
    "moves": lambda: (moving_net(), _examples(moving_net())),
    "attention": lambda: (attending_net(), _examples(attending_net())),
    "extremes": extremes,
    "computed": lambda: computed(1, 2),
    **{f"computed {seed}": partial(computed, seed) for seed in range(3, 11)},
}


CASES = [
    *((name, "tvm:aarch64") for name in ("digits-cnn", "moves", "attention", "extremes")),
    ("digits-cnn", "tvm:aarch64-dotprod"),
    ("extremes", "tvm:aarch64-dotprod"),
    ("extremes", "tvm:aarch64-i8mm"),
    ("computed", "tvm:aarch64-dotprod"),
    ("computed", "tvm:aarch64-i8mm"),
    *(pytest.param(f"computed {seed}", target, marks=pytest.mark.slow) for seed in range(3, 11) for target in ON),
]


def _examples(program: Program) -> list[tuple[Tensor]]:
    (example,) = program.example()
    return [(example + program_inputs(*example.shape).to(example.dtype),)]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_the_bits_of_the_program_on_aarch64(name: str, target: str, run: Run, tmp_path: Path) -> None:
    program, batches = PROGRAMS[name]()
    assert program.stage == "integer"
    artifact = lower(program, target, tmp_path / "artifact")
    for number, inputs in enumerate(batches):
        tensors, results = tmp_path / "tensors.safetensors", tmp_path / f"results-{number}.safetensors"
        save_file({f"input.{position}.x": x.contiguous().numpy() for position, x in enumerate(inputs)}, tensors)
        done = run(artifact.folder, tensors, results, threads=1 + number % 2, model=ON[target])
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        found, expected = load_file(results), program.run(*inputs)
        assert len(found) == len(expected)
        for position, wanted in enumerate(expected):
            value: np.ndarray[Any, Any] = found[f"output.{position}"]
            assert (value.dtype, value.shape) == (wanted.numpy().dtype, tuple(wanted.shape))
            assert value.tobytes() == wanted.contiguous().numpy().tobytes()
    conformance = run(artifact.folder, artifact.folder / "conformance.safetensors", model=ON[target])
    assert (conformance.returncode, conformance.stdout.count("same bits")) == (0, len(artifact.manifest["outputs"]))


@pytest.mark.parametrize(("target", "older"), [("tvm:aarch64-dotprod", OLDEST), ("tvm:aarch64-i8mm", NEWER)])
def test_an_older_cpu_does_not_know_the_instructions(target: str, older: str, run: Run, tmp_path: Path) -> None:
    """So the comparisons on it ran nothing that it lacks, and those on the newer one ran what they are about."""
    artifact = lower(residual_net(), target, tmp_path / "artifact")
    vectors = artifact.folder / "conformance.safetensors"
    assert "Illegal instruction" in run(artifact.folder, vectors, model=older).stderr
    assert run(artifact.folder, vectors, model=ON[target]).returncode == 0


def narrow() -> Program:
    """Linears whose weights fill 3, 4 and 7 bits, and one of which most is zeros."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (48, 128), generator=generator) for bits in (3, 4, 7)]
    drawn.append(torch.randint(-127, 128, (48, 128), generator=generator) * (torch.rand(48, 128, generator=generator) < 0.2))

    def body(edit: Edit, x: fx.Node) -> list[fx.Node]:
        held = [edit.add_tensor(f"w{number}", values.to(torch.int8)) for number, values in enumerate(drawn)]
        return [edit.call(torch.ops.fxp.linear.default, x, weight, None) for weight in held]

    return several([(("batch", 128), torch.int8)], body)


def test_weights_that_are_stored_apart_are_read(run: Run, tmp_path: Path) -> None:
    """Of every form; a file of them that is none, or lies, is one line."""
    artifact = lower(narrow(), "tvm:aarch64", tmp_path / "artifact", sparse=True)
    vectors, weights = artifact.folder / "conformance.safetensors", artifact.folder / "weights.safetensors"
    assert sorted(one["bits"] for one in artifact.manifest["details"]["apart"]["tensors"].values()) == [3, 4, 7, 8]
    done = run(artifact.folder, vectors)
    assert (done.returncode, done.stdout.count("same bits"), done.stderr) == (0, 4, ""), done
    right = load_file(weights)
    (mask,) = (key for key in right if key.startswith("mask:"))
    form, values = mask.replace("mask", "form"), mask.replace("mask", "values")
    changed: list[tuple[str, str, np.ndarray[Any, Any]]] = [
        ("no form", form, right[form][:5].copy()),
        ("no form", form, right[form] + np.array([0, 3, 0, 0, 0, 0, 0, 0, 0])),
        ("too large", form, right[form] * np.array([1, 1, 1, 1, 1, 1, 2**40, 1, 1])),
        ("another length", mask, np.append(right[mask], right[mask])),
        ("another number", values, right[values][:-1].copy()),
    ]
    damaged = [("cannot be read", b""), ("cut off", weights.read_bytes()[:100])]
    for word, key, array in changed:
        save_file({**right, key: array}, weights)
        damaged.append((word, weights.read_bytes()))
    for word, content in damaged:
        weights.write_bytes(content)
        done = run(artifact.folder, vectors)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done
        assert all(text in done.stderr for text in ("weights.safetensors: ", word)), done
    weights.unlink()
    done = run(artifact.folder, vectors)
    assert (done.returncode, "there are 1 inputs and 0 weights beside it" in done.stderr) == (2, True), done


def test_the_runner_sees_other_bits_and_broken_files(run: Run, tmp_path: Path) -> None:
    artifact = lower(residual_net(), "tvm:aarch64", tmp_path / "artifact")
    right = load_file(artifact.folder / "conformance.safetensors")
    broken = tmp_path / "broken.safetensors"
    content = (artifact.folder / "conformance.safetensors").read_bytes()

    def tried(code: int, *words: str) -> None:
        done = run(artifact.folder, broken)
        assert done.returncode == code, done
        said = done.stdout if code == 1 else done.stderr
        assert len(said.strip().splitlines()) == 1
        assert all(word in said for word in words), said

    changed = right["output.0"].copy()
    changed.view(np.uint8).reshape(-1)[-1] ^= 1
    save_file({**right, "output.0": changed}, broken)
    tried(1, "output.0", "DIFFERS")
    save_file({**right, "output.0": right["output.0"][:, :-1].copy()}, broken)
    tried(1, "output.0", "DIFFERS")
    save_file({**right, "output.1": changed}, broken)
    tried(2, "more outputs are expected")
    save_file({"output.0": changed}, broken)
    tried(2, "artifact/model-")
    done = run(artifact.folder, tmp_path / "none.safetensors")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none.safetensors: cannot be read" in done.stderr
    damaged = {"cut off": content[:100], "wrong offsets": content[:-1], "type F33": content.replace(b"F32", b"F33"), "safetensors": b""}
    for word, text in damaged.items():
        broken.write_bytes(text)
        tried(2, "broken.safetensors", word)
