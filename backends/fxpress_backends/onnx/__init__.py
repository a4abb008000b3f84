"""The ONNX room: floats by torch's exporter, integers in two dialects of standard operators that give the same bits, QDQ for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxpress_ir import Program
from numpy.typing import NDArray

from ..contract import Call, Recorder, Refusal, Runner, Target

_TARGETS = (
    Target("onnx:float", "the float program as torch exports it", ("float",), "float", features=("onnxruntime",)),
    Target(
        "onnx:qdq", "the simulated program with QuantizeLinear/DequantizeLinear, for interoperability: close, never the reference",
        ("simulated",), "u8+128", features=("onnxruntime",),
    ),
    Target(
        "onnx:int", "integer tensors only (F1) but for named islands, checked on the optimised graph", ("integer", "mixed"), "u8+128",
        features=("onnxruntime",),
    ),
    Target(
        "onnx:qlinear", "QLinear operators with dyadic scales (F2): the bits of onnx:int, faster", ("integer", "mixed"), "u8+128",
        features=("onnxruntime",),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class OnnxBackend:
    """Lowers to one ``model.onnx`` and runs it in ONNX Runtime; what is heavy is imported when it is used."""

    def targets(self) -> tuple[Target, ...]:
        return _TARGETS

    def legalize(self, program: Program, target: Target) -> tuple[Refusal, ...]:
        if program.stage not in target.stages:
            way_on = f"{target.name} takes {' and '.join(target.stages)} programs"
            return (Refusal("program", f"its stage is {program.stage}", way_on),)
        from .legalize import refusals
        from .lower import FLAVOURS

        return refusals(program, FLAVOURS[target.name]) if target.name in FLAVOURS else ()

    def lower(self, program: Program, target: Target, folder: Path) -> Mapping[str, Any]:
        from .lower import lower

        return lower(program, target, folder)

    def lower_sparse(self, program: Program, target: Target, folder: Path, sizes: Mapping[str, int] | None) -> Mapping[str, Any]:
        from .lower import lower
        from .sparse import make_sparse

        return {**lower(program, target, folder), "apart": make_sparse(folder)}

    def groups(self, program: Program, target: Target, sizes: Mapping[str, int]) -> tuple[tuple[tuple[str, ...], str], ...]:
        from .profile import groups

        return groups(program, target, sizes)

    def owners(self, program: Program, target: Target, calls: Sequence[Call]) -> tuple[tuple[int, ...], ...]:
        from .profile import owners

        return owners(program, target, calls)

    def recorder(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any], inputs: Sequence[NDArray[Any]]) -> Recorder:
        from .profile import OnnxRecorder

        return OnnxRecorder(folder, manifest, options, inputs)

    def load(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]) -> Runner:
        from .run import load

        return load(folder, str(manifest["target"]), options, manifest.get("details", {}).get("apart"))


ONNX = OnnxBackend()

__all__ = ["ONNX", "OnnxBackend"]
