"""CUDA artifacts on a GPU: the reference's bits, and latency beside PyTorch's in half precision, in one interleaved run.

Where fxpress is installed: ``python benchmarks/cuda.py pack FOLDER [--models resnet18 ...] [--arch sm_90] [--python 3.12]`` lowers the
models and lays beside them what runs them: TVM's runtime (5 MB), tvm_ffi and NVIDIA's libcudart. On a machine with a GPU:
``python FOLDER/cuda.py run FOLDER [--torch]`` needs Python, NumPy and the driver (580 or later), no fxpress, TVM or compiler; with
``--torch``, PyTorch and transformers too, for the same architectures in eager and compiled half precision.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("resnet18", "resnet50", "mobilenetv2", "vit-s")
PIPELINE = "fold-batch-norm, quantize-dyadic{integer_only=true}"
RUNTIME, ARTIFACTS = "runtime", "artifacts"
CPU, CUDA = 1, 2
"""Devices of DLPack."""
POOLED = 2
WARMUP, TURNS, RUNS_A_TURN, PAUSE = 10, 12, 10, 0.25
TYPES = {"F32": np.float32, "I8": np.int8, "U8": np.uint8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "BOOL": np.bool_}
"""Of safetensors."""


def network(name: str) -> Any:
    import real_models

    makers = {"mobilenetv2": real_models.mobilenet_v2, "vit-s": real_models.vit_s}
    return makers[name]() if name in makers else real_models.resnet(int(name.removeprefix("resnet")))


def pack(folder: Path, names: Sequence[str], arch: str, batch: int, python: str) -> None:
    """Artifacts and all that runs them, below `folder`."""
    import fxpress as fx
    import torch

    _pack_runtime(folder / RUNTIME, python)
    for name in names:
        print(f"{name}: quantising and lowering", flush=True)
        images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        program = fx.capture(network(name), (images,))
        program = fx.Pipeline.parse(PIPELINE).run(program, calibration=[(images,)]).program
        fx.lower(program, f"tvm:cuda-{arch}", out=folder / ARTIFACTS / name)
    for file in (Path(__file__), Path(__file__).with_name("real_models.py")):
        shutil.copy(file, folder)


def _pack_runtime(runtime: Path, python: str) -> None:
    import tvm

    runtime.mkdir(parents=True, exist_ok=True)
    for name in ("libtvm_runtime.so", "libtvm_runtime_cuda.so", "libtvm_runtime_extra.so"):
        shutil.copy(Path(tvm.__file__).parent / "lib" / name, runtime)
    from importlib.metadata import version

    wanted = (f"apache-tvm-ffi=={version('apache-tvm-ffi')}", "nvidia-cuda-runtime>=13,<14", "typing-extensions")
    with tempfile.TemporaryDirectory() as wheels:
        command = ["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python, "--dest", wheels]
        subprocess.run([sys.executable, *command, *wanted], check=True)
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                kept = [name for name in archive.namelist() if "/include/" not in name and "/src/" not in name and not name.endswith(".a")]
                archive.extractall(runtime, kept)


def safetensors(file: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file; the format is a length, JSON and bytes."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    entries = {name: entry for name, entry in json.loads(content[8:start]).items() if name != "__metadata__"}
    return {
        name: np.frombuffer(content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]], TYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in entries.items()
    }


class Machine:
    """TVM's runtime out of `runtime` alone, on the first CUDA device or, to try it, on the CPU."""

    def __init__(self, runtime: Path, device: int) -> None:
        sys.path.insert(0, str(runtime))
        self._device, self._cudart = device, None
        if device == CUDA:
            self._cudart = ctypes.CDLL(str(next(runtime.rglob("libcudart.so.13"))), ctypes.RTLD_GLOBAL)
        import tvm_ffi

        self._ffi = tvm_ffi
        try:
            for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so", *(["libtvm_runtime_cuda.so"] if device == CUDA else [])):
                ctypes.CDLL(str(runtime / name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise SystemExit(f"{error}; libcuda.so.1 comes with NVIDIA's driver") from error

    def wait(self) -> None:
        if self._cudart is not None and self._cudart.cudaDeviceSynchronize() != 0:
            raise SystemExit("CUDA reports an error: see the driver's version, 580 or later")

    def open(self, artifact: Path) -> Callable[[], None]:
        """Hold the artifact to its vectors; returns one run on the inputs that then lie on the device, done when it returns."""
        manifest = json.loads((artifact / "manifest.json").read_text())
        details, record = manifest["details"], manifest["conformance"]
        if details.get("apart", {}).get("tensors"):
            raise SystemExit(f"{artifact.name}: its library holds no weights, which lie packed beside it; run it by fxpress")
        if "cubin" in details:
            code = (artifact / details["cubin"]).read_bytes()

            def compiled(source: str) -> bytes:
                assert hashlib.sha256(source.encode()).hexdigest() == details["cuda_source_sha256"], "the library holds other source"
                return code

            self._ffi.register_global_func("tvm_callback_cuda_compile", compiled, override=True)
        machine = self._ffi.load_module(str(artifact / details["library"]))["vm_load_executable"]()
        devices = [(self._device, 0, POOLED), (CPU, 0, POOLED)] if self._device != CPU else [(CPU, 0, POOLED)]
        machine["vm_initialization"](*(value for device in devices for value in device))
        tensors = safetensors(artifact / record["file"])
        machine["set_input"]("main", *(self._ffi.from_dlpack(tensors[name].copy()) for name in record["inputs"]))

        def run() -> None:
            machine["invoke_stateful"]("main")
            self.wait()

        run()
        for position, name in enumerate(record["outputs"]):
            found = self._fetched(machine["get_output"]("main", position), tensors[name])
            if found.tobytes() != tensors[name].tobytes():
                raise SystemExit(f"{artifact.name}: {name} differs at {int((found != tensors[name]).sum())} of {found.size} values")
        print(f"{artifact.name}: same bits as the reference", flush=True)
        return run

    def _fetched(self, tensor: Any, like: np.ndarray) -> np.ndarray:
        found = np.empty_like(like)
        if tuple(tensor.shape) != like.shape or str(tensor.dtype) != str(like.dtype):
            raise SystemExit(f"an output is {tensor.dtype}{list(tensor.shape)}, expected {like.dtype}{list(like.shape)}")
        if self._cudart is None:
            found[...] = np.from_dlpack(tensor)
        elif self._cudart.cudaMemcpy(
            ctypes.c_void_p(found.ctypes.data), ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(found.nbytes), 2
        ):
            raise SystemExit("an output cannot be copied from the device")
        return found


def peers(name: str, batch: int) -> dict[str, Callable[[], None]]:
    """The architecture in PyTorch: half precision, eager and compiled, and bfloat16 compiled."""
    import torch

    def contender(dtype: Any, compiled: bool) -> Callable[[], None]:
        model = network(name).to("cuda", dtype)
        images = torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype)
        if compiled:
            model = torch.compile(model, mode="max-autotune")

        def run() -> None:
            with torch.inference_mode():
                model(images)
            torch.cuda.synchronize()

        return run

    kinds = {"fp16 eager": (torch.float16, False), "fp16 compiled": (torch.float16, True), "bf16 compiled": (torch.bfloat16, True)}
    return {f"{name}, PyTorch {kind}": contender(*how) for kind, how in kinds.items()}


def measured(contenders: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each run, turn about."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in range(WARMUP):
            run()
    for _ in range(TURNS):
        for name, run in contenders.items():
            time.sleep(PAUSE)
            run()  # clocks fall in the pause
            for _ in range(RUNS_A_TURN):
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def run(folder: Path, device: int, with_torch: bool) -> None:
    machine = Machine(folder / RUNTIME, device)
    for artifact in sorted((folder / ARTIFACTS).iterdir()):
        manifest = json.loads((artifact / "manifest.json").read_text())
        contenders = {f"{artifact.name}, {manifest['target']}": machine.open(artifact)}
        if with_torch:
            contenders |= peers(artifact.name, int(manifest["inputs"][0]["shape"][0]))
        found = measured(contenders)
        first = float(np.median(next(iter(found.values()))))
        for name, seconds in found.items():
            p50, p90 = np.quantile(seconds, (0.5, 0.9))
            print(f"{name:40} p50 {p50 * 1e3:8.3f} ms   p90 {p90 * 1e3:8.3f} ms   / first {p50 / first:6.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing, running = commands.add_parser("pack"), commands.add_parser("run")
    for command in (packing, running):
        command.add_argument("folder", type=Path)
    packing.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    packing.add_argument("--arch", default="sm_90")
    packing.add_argument("--batch", type=int, default=1)
    packing.add_argument(
        "--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="version on the machine with the GPU"
    )
    running.add_argument("--torch", action="store_true")
    running.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: artifacts of a CPU, to try this script")
    given = parser.parse_args()
    if given.command == "pack":
        pack(given.folder, given.models, given.arch, given.batch, given.python)
    else:
        run(given.folder.resolve(), CUDA if given.device == "cuda" else CPU, given.torch)


if __name__ == "__main__":
    main()
