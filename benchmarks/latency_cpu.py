"""Our targets and the best runtimes' own, each at its settings, on this CPU: ratios with intervals from one interleaved run.

`tvm:native` is tuned: its kernels are timed when it is lowered.

Run: ``python benchmarks/latency_cpu.py [--models ...] [--threads 1] [--json]`` (needs the extras ``models`` and ``peers``). With
``--json`` the figures go to the standard output and everything else to the standard error. The GEMM peak that the share is of is
measured in the same run, before and after each model, by a loop of dot products on registers alone (`gemm_peak.py`); the time of each
kernel (`kernel_times.py`) afterwards, in a process of its own.
Peers: ONNX Runtime in float32, and int8 by its own tool (static QDQ per channel; dynamic too for transformers); OpenVINO in float32, in
bfloat16, in int8 from our QDQ twin and in int8 by NNCF (with its transformer model type). Random weights of the real
architectures, batch 1, 224 x 224 pixels or 128 ids. A peer that cannot be made or run is named with its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress_backends.bench import Command
from kernel_times import table as breakdown
from peer_int8 import quantized
from real_models import bert, mobilenet_v2, resnet, vit_s
from torch import nn

PIPELINE = "fold-batch-norm, quantize-dyadic{integer_only=true, input_floor=0}"
"""Every layer reads 8 bits, as in the peers."""
OURS = ("onnx:qlinear", "tvm:native")
HERE = Path(__file__).parent
LENGTH = 128
RATIOS = (("ratio_to_best_peer", "interval"), ("ratio_to_ort_int8", "interval_to_ort_int8"))


@dataclass(frozen=True)
class Model:
    """How to build a network, and whether it takes ids."""

    build: Callable[[], nn.Module]
    transformer: bool = False
    ids: bool = False

    def inputs(self, batch: int, seed: int) -> tuple[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        if self.ids:
            return (torch.randint(0, 30000, (batch, LENGTH), generator=generator),)
        return (torch.randn(batch, 3, 224, 224, generator=generator),)

    def capture(self) -> fx.Program:
        name, sizes = ("input_ids", {1: fx.Dim("seq", max=LENGTH)}) if self.ids else ("pixel_values", {})
        return fx.capture(self.build(), self.inputs(1, 0), dynamic_shapes={name: {0: fx.Dim("batch"), **sizes}})


MODELS = {
    "resnet18": Model(partial(resnet, 18)),
    "resnet50": Model(partial(resnet, 50)),
    "mobilenetv2": Model(mobilenet_v2),
    "vit-s": Model(vit_s, transformer=True),
    "minilm-l6": Model(partial(bert, hidden=384, layers=6), transformer=True, ids=True),
    "bert-base": Model(bert, transformer=True, ids=True),
}


def nncf_int8(source: Path, model: Model, out: Path) -> Path:
    """NNCF's post-training quantisation of the float file, as OpenVINO IR."""
    import nncf
    import openvino

    read = openvino.Core().read_model(str(source))
    data = nncf.Dataset([model.inputs(1, seed)[0].numpy() for seed in range(16)])
    kind = nncf.ModelType.TRANSFORMER if model.transformer else None
    with contextlib.redirect_stdout(sys.stderr):  # its progress bar; standard output is for figures
        openvino.save_model(nncf.quantize(read, data, model_type=kind, subset_size=16), str(out))
    return out


def peers(program: fx.Program, simulated: fx.Program, model: Model, folder: Path) -> Iterator[tuple[str, Callable[[], Command]]]:
    """Name, and how to make the contender."""
    source = fx.lower(program, "onnx:float", out=folder / "float").folder / "model.onnx"

    def command(name: str, script: str, *arguments: object) -> Command:
        return Command(name, [sys.executable, str(HERE / script), *map(str, arguments)])

    def openvino(name: str, path: Path, precision: str) -> Command:
        return command(name, "peer_openvino.py", path, precision)

    yield "ONNX Runtime fp32", lambda: command("ONNX Runtime fp32", "peer_onnxruntime.py", source)
    calibration = [model.inputs(2, seed) for seed in range(4)]
    for what, path in quantized(source, calibration, folder):
        if model.transformer or "static" in what:
            yield what, partial(command, what, "peer_onnxruntime.py", path)
    yield "OpenVINO fp32", lambda: openvino("OpenVINO fp32", source, "f32")
    yield "OpenVINO bf16", lambda: openvino("OpenVINO bf16", source, "bf16")
    twin = "OpenVINO int8, our QDQ twin"
    yield twin, lambda: openvino(twin, fx.lower(simulated, "onnx:qdq", out=folder / "qdq").folder / "model.onnx", "f32")
    by_nncf = "OpenVINO int8, NNCF"
    yield by_nncf, lambda: openvino(by_nncf, nncf_int8(source, model, folder / "nncf.xml"), "f32")


def _run(script: str, *arguments: object) -> str:
    """The output of a script that needs a process of its own: TVM's pool of threads never grows."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def gemm_peak(threads: int) -> tuple[str, float]:
    """The instruction and GMAC/s."""
    name, speed = _run("gemm_peak.py", "--threads", threads).split()
    return name, float(speed)


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


def measure(name: str, repeats: int, threads: int) -> dict[str, Any]:
    model = MODELS[name]
    program = model.capture()
    calibration = [model.inputs(2, seed) for seed in range(4)]
    simulated = fx.Pipeline.parse(PIPELINE.replace("quantize-dyadic", "place-quantizers")).run(program, calibration=calibration).program
    integer = fx.Pipeline.parse("to-integer").run(simulated).program
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = {"batch": 1, **({"seq": LENGTH} if model.ids else {})}
        contenders: list[Any] = [
            fx.lower(integer, target, out=folder / target.replace(":", "-"), tune=sizes if target == "tvm:native" else None)
            for target in OURS
        ]
        names = list(OURS)
        x = model.inputs(1, 99)
        for what, make in peers(program, simulated, model, folder):
            try:
                contender = make()
                fx.bench([contender], repeats=1, warmup=1, runs_per_turn=1, inputs=x, threads=threads, quick=True)
            except Exception as error:  # whatever a peer's tool raises; it is reported and left out
                say(f"{name}: without {what}: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
                continue
            contenders.append(contender)
            names.append(what)
        before = gemm_peak(threads)
        table = fx.bench(contenders, repeats=repeats, threads=threads, inputs=x)
        peak = max(before, gemm_peak(threads), key=lambda found: found[1])  # a peak is what was reached
        np.savez(folder / "inputs.npz", *(value.numpy() for value in x))
        kernels = json.loads(
            _run("kernel_times.py", contenders[1].folder, "--inputs", folder / "inputs.npz", "--threads", threads, "--json")
        )
    times = {what: row.p50_ms for what, row in zip(names, table.rows, strict=True)}
    say(f"== {name}, {threads} threads")
    say(table)
    theirs = {what: time for what, time in times.items() if what not in OURS}
    best = min(theirs, key=theirs.__getitem__)
    by_ort = min((what for what in theirs if what.startswith("ONNX Runtime") and "fp32" not in what), key=theirs.__getitem__)
    ratio, over_ort = (table.ratio(names.index(what), names.index("tvm:native")) for what in (best, by_ort))
    say(f"{name}: tvm:native is ahead of {best} by {ratio}, of {by_ort} by {over_ort}")
    macs = program.cost(**sizes).macs
    share = macs / (times["tvm:native"] * 1e-3) / (peak[1] * 1e9)
    say(f"{name}: {share:.0%} of the GEMM peak: {macs / 1e9:.3g} GMAC at {peak[1]:.0f} GMAC/s of {peak[0]}, {threads} threads")
    say(breakdown(kernels))
    return {
        "model": name, "threads": threads, "ours_ms": {what: times[what] for what in OURS}, "peers_ms": theirs, "best_peer": best,
        "ratio_to_best_peer": ratio.median, "interval": [ratio.low, ratio.high], "ratio_to_ort_int8": over_ort.median,
        "interval_to_ort_int8": [over_ort.low, over_ort.high], "share_of_gemm_peak": share, "gemm_peak_gmacs": peak[1],
        "gemm_instruction": peak[0], "kernels_us": {kernel: time for kernel, _, time in kernels},
    }  # fmt: skip


HEAD = ("model", "`tvm:native`", "best peer", "its time / ours [95 %]", "ONNX Runtime's best int8 / ours", "share of the GEMM peak")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ours, best = row["ours_ms"]["tvm:native"], row["best_peer"]
    ratios = [f"{row[of]:.2f} [{', '.join(f'{end:.2f}' for end in row[within])}]" for of, within in RATIOS]
    return row["model"], f"{ours:.2f} ms", f"{best}, {row['peers_ms'][best]:.2f} ms", *ratios, f"{row['share_of_gemm_peak']:.0%}"


def _processor() -> str:
    """As the kernel names it: Python knows only the architecture."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args()
    rows = [measure(name, options.repeats, options.threads) for name in options.models]
    text = readme.markdown(HEAD, list(map(_cells, rows)))
    say(text)
    if options.write:
        what = f"{_processor()}, {options.threads} threads, batch 1; GEMM peak by `{rows[0]['gemm_instruction']}`."
        readme.write("latency-cpu", f"{text}\n\n{what}")
    if options.json:
        machine = {"processor": _processor(), "python": platform.python_version(), "numpy": np.__version__}
        print(json.dumps({"machine": machine, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
