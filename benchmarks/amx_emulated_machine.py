"""Kernels of AMX tiles as machine code, on a machine in software that has AMX: the program's bits, where no CPU has it.

``python benchmarks/amx_emulated_machine.py FOLDER [--programs linear ...] [--threads 1 2]`` builds the machine in FOLDER (`bochs.py`),
lowers the programs for `tvm:x86-64-amx`, runs them there by `run.cpp`, and prints what was compared; docs/amx.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import fxpress as fx
from amx_programs import PROGRAMS, vectors
from bochs import Files, Machine
from fxpress_backends.tvm import RUNNER
from safetensors.torch import load_file, save_file
from torch import Tensor

TARGET = "tvm:x86-64-amx"
INSTRUCTIONS = "instructions"
LIBRARIES = ("libtvm_runtime.so", "libtvm_ffi.so")
WITHOUT_TILES = "clearcpuid=324"
"""Linux then knows of no XFD, and gives no tiles to anyone."""
ILLEGAL = 128 + 4
"""A shell's exit code for SIGILL."""


@dataclass(frozen=True)
class Run:
    """A library and a file of vectors in the machine.

    Attributes:
        outputs, values: to be compared.
        code: what the runner has to end with.
    """

    name: str
    library: str
    tensors: str
    threads: int
    outputs: int
    values: int
    code: int = 0

    def command(self) -> str:
        return f"echo '== {self.name}'; TVM_NUM_THREADS={self.threads} /run {self.library} {self.tensors}; echo code $?"


def runner(folder: Path) -> Files:
    """`run.cpp` linked in `folder` with TVM's runtime, and all libraries that these ask for, by their places in the machine."""
    import tvm
    import tvm_ffi.libinfo as ffi

    places = [Path(tvm.__file__).parent / "lib", Path(ffi.find_libtvm_ffi()).parent]
    libraries = [str(next(place / name for place in places if (place / name).exists())) for name in LIBRARIES]
    options = [f"-I{ffi.find_include_path()}", f"-I{ffi.find_dlpack_include_path()}", "-Wl,--no-as-needed", "-Wl,-rpath,/lib"]
    program = folder / "run"
    subprocess.run(["g++", "-std=c++17", "-O2", str(RUNNER), *libraries, *options, "-o", program], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, places))}
    listing = subprocess.run(["ldd", program, *libraries], env=environment, capture_output=True, text=True, check=True).stdout
    found = {Path(path).name: Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+\.so\S*) \(", listing, re.MULTILINE)}
    loader = next(name for name in found if name.startswith("ld-linux"))
    return {"run": program, **{f"lib/{name}": path for name, path in found.items()}, f"lib64/{loader}": f"/lib/{loader}"}


def lowered(name: str, folder: Path, threads: Sequence[int]) -> tuple[Files, list[Run], str]:
    """A program's library and vectors, its runs, the last with one bit of an expected output turned over, and its kernels."""
    make, batches = PROGRAMS[name]
    program = make()
    artifact = fx.lower(program, TARGET, out=folder / "artifacts" / name)
    library = {f"{name}/model.so": artifact.folder / artifact.manifest["details"]["library"]}
    library |= {f"{name}/{path.name}": path for path in artifact.folder.glob("weights.safetensors")}
    conformance = load_file(artifact.folder / artifact.manifest["conformance"]["file"])
    found = [{".".join(key.split(".")[:2]): tensor for key, tensor in conformance.items()}, *vectors(program, batches)]
    parts = [_held(f"{name}/{number}", tensors, folder, f"{name}/model.so", threads) for number, tensors in enumerate(found)]
    parts.append(_held(f"{name}/wrong", one_bit_turned(found[0]), folder, f"{name}/model.so", (1,), code=1))
    kernels = Counter(group["kernel"] for group in artifact.manifest["details"]["groups"])
    text = ", ".join(f"{times} {kernel}" for kernel, times in sorted(kernels.items()) if kernel.endswith("_amx"))
    files = {at: path for more, _ in parts for at, path in more.items()}
    return {**library, **files}, [run for _, runs in parts for run in runs], text


def instructions(folder: Path) -> tuple[Files, list[Run], str]:
    """The self-test's instructions: libraries, vectors, runs and names."""
    from amx_instructions import libraries  # with it comes TVM

    files: dict[str, Path | str | bytes] = {}
    runs, names = [], []
    (folder / "instructions").mkdir(exist_ok=True)
    for name, library, tensors in libraries(folder / "instructions"):
        at = f"instructions/{name}"
        more, found = _held(at, tensors, folder, f"{at}.so", (1,))
        files |= {f"{at}.so": library, **more}
        runs += found
        names.append(name)
    return files, runs, ", ".join(names)


def _held(
    name: str, tensors: Mapping[str, Tensor], folder: Path, library: str, threads: Sequence[int], code: int = 0
) -> tuple[Files, list[Run]]:
    """A file of vectors, and the library's runs on it."""
    at = f"{name}.safetensors"
    (folder / at).parent.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / at)
    outputs = [tensor.numel() for key, tensor in tensors.items() if key.startswith("output.")]
    return {at: folder / at}, [Run(f"{name} {each}", library, at, each, len(outputs), sum(outputs), code) for each in threads]


def one_bit_turned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The lowest bit of a byte in the middle of the first output."""
    bits = tensors["output.0"].clone()
    data = bits.numpy().view("uint8").reshape(-1)
    data[data.size // 2] ^= 1
    return {**tensors, "output.0": bits}


def failures(runs: Sequence[Run], transcript: str) -> list[str]:
    """Lines on the runs that did not end as they have to, or compared fewer outputs."""
    found = dict(re.findall(r"^== (.+)\n((?:(?!== ).*\n)*)", transcript, re.MULTILINE))
    wrong = []
    for run in runs:
        said = found.get(run.name, "")
        codes, same, differ = re.findall(r"^code (\d+)$", said, re.MULTILINE), said.count(": same bits"), said.count(": DIFFERS")
        wanted = {0: (run.outputs, 0), 1: (run.outputs - 1, 1)}.get(run.code, (0, 0))
        if codes != [str(run.code)] or (same, differ) != wanted:
            last = said.strip().splitlines()[-2:]
            wrong.append(f"{run.name}: {same} outputs of {run.outputs} the same, {differ} differ: {' / '.join(last) or 'it did not run'}")
    return wrong


def main() -> int:
    """Exit code 0: every bit is the program's; 1: not so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="for the machine, kept, and for the files of this run")
    parser.add_argument("--programs", nargs="+", choices=(INSTRUCTIONS, *PROGRAMS), default=(INSTRUCTIONS, *PROGRAMS))
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2), help="of TVM; the machine has one CPU, they take turns")
    options = parser.parse_args()
    print("the machine: some minutes the first time", flush=True)
    machine = Machine(options.folder / "machine")
    run = options.folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path | str | bytes] = dict(runner(run))
    runs: list[Run] = []
    for name in options.programs:
        more, found, text = instructions(run) if name == INSTRUCTIONS else lowered(name, run, options.threads)
        files |= more
        runs += found
        held = [each for each in found if each.code == 0]
        counts = f"{len(held)} runs, {sum(each.outputs for each in held)} outputs, {sum(each.values for each in held):,} values"
        print(f"{name}: {text}; {counts} to compare", flush=True)
    transcript, executed = machine.boot(files, "\n".join(each.command() for each in runs), run)
    wrong = failures(runs, transcript)
    print("executed:", ", ".join(f"{times:,} {name}" for name, times in executed.items()), flush=True)
    refused = replace(runs[-1], code=ILLEGAL)
    transcript, _ = machine.boot(files, refused.command(), run, WITHOUT_TILES)
    wrong += [f"where Linux gives no tiles, {line}" for line in failures([refused], transcript)]
    held = [each for each in runs if each.code == 0]
    for line in wrong:
        print(line)
    print(f"{len(held)} runs, {sum(each.values for each in held):,} values: {'not ' if wrong else ''}all bits are the program's")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
