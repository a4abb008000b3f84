"""model.onnx ==> an ONNX Runtime session whose integer kernels were checked to be exact on this machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray

from ..contract import Arrays
from .lower import COMPUTED_PRODUCTS, FILE, OPSET
from .scan import UNFUSED
from .sparse import initialisers

_OPTIONS = ("providers", "threads")
OPTIMISED = "optimised.onnx"
_ELSEWHERE = "use target reference or a tvm target"
PRECISE = {"session.x64quantprecision": "1"}
"""ONNX Runtime's own switch from u8 x s8 to u8 x u8 kernels on x86 processors whose 16-bit sums saturate."""


@dataclass(frozen=True)
class Session:
    """A loaded model; inputs and outputs in the order of the program's signature."""

    session: Any
    inputs: tuple[str, ...]
    kept: Any = None
    """What the session reads and does not own."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """Execute once.

        Raises:
            BackendError: another number of inputs than the model has, or ONNX Runtime fails.
        """
        if len(inputs) != len(self.inputs):
            raise BackendError(f"{len(inputs)} inputs given, {len(self.inputs)} expected", way_on=f"pass {', '.join(self.inputs)}")
        try:
            return tuple(self.session.run(None, dict(zip(self.inputs, inputs, strict=True))))
        except Exception as error:  # its exceptions derive from Exception only
            raise BackendError(f"ONNX Runtime failed: {str(error)[:200]}", way_on="the full report is the cause") from error


def load(
    folder: Path, target: str, options: Mapping[str, Any], apart: Mapping[str, Any] | None = None, *, profiled: Path | None = None
) -> Session:
    """Open ``model.onnx`` in `folder`.

    Args:
        target: the target it was lowered for; where integer kernels run, the self-test of this process comes first.
        options: ``threads`` (of one operator) and ``providers`` (ONNX Runtime's; default the CPU).
        apart: the record of initialisers that are stored apart.
        profiled: a folder, as of `open_session`.

    Raises:
        BackendError: an unknown option or provider, a file that cannot be opened, or a processor whose integer kernels are not exact.
        ArtifactError: initialisers that are stored apart are malformed.
    """
    unknown = sorted(options.keys() - set(_OPTIONS))
    if unknown:
        raise BackendError(f"unknown option {unknown[0]!r}", where="onnx", way_on=f"one of {', '.join(_OPTIONS)}")
    entries = {} if target == "onnx:float" else {**exact_entries(), **(UNFUSED if target == "onnx:int" else {})}
    providers = list(options.get("providers") or ["CPUExecutionProvider"])
    _check_available(providers)
    given = initialisers(folder, apart) if apart else {}
    try:
        session = open_session(str(folder / FILE), entries, options.get("threads"), providers, given, profiled)
    except Exception as error:  # its exceptions derive from Exception only
        raise BackendError(f"ONNX Runtime cannot open it: {str(error)[:200]}", where=str(FILE), way_on="lower the program again") from error
    if COMPUTED_PRODUCTS in session.get_modelmeta().custom_metadata_map and not computed_products_are_exact():
        raise BackendError("this processor's products of two computed tensors saturate", where="onnx", way_on=_ELSEWHERE)
    return Session(session, tuple(value.name for value in session.get_inputs()), given)


def _check_available(providers: Sequence[Any]) -> None:
    """ONNX Runtime itself only warns, and takes the CPU instead."""
    available = onnxruntime.get_available_providers()
    for provider in providers:
        name = provider if isinstance(provider, str) else provider[0]
        if name not in available:
            raise BackendError(f"this ONNX Runtime has no provider {name!r}", where="onnx", way_on=f"one of {', '.join(available)}")


def open_session(
    model: str | bytes,
    entries: Mapping[str, str],
    threads: int | None = None,
    providers: Sequence[Any] = (),
    given: Mapping[str, Any] | None = None,
    profiled: Path | None = None,
) -> Any:
    """A session from a path or from bytes, with configuration entries, and the values of initialisers that the model leaves out.

    With `profiled`, a folder, every kernel's time is recorded into a file of it, and the optimised graph is written to `OPTIMISED` there.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if profiled is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profiled / "profile")
        settings.optimized_model_filepath = str(profiled / OPTIMISED)
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    if threads is not None:
        settings.intra_op_num_threads = threads
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        # the fused add of ONNX Runtime on ARM is fixed-point and rounds half away from zero
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    if given:
        settings.add_external_initializers(list(given), list(given.values()))
    return onnxruntime.InferenceSession(model, settings, providers=list(providers) or ["CPUExecutionProvider"])


@cache
def exact_entries() -> Mapping[str, str]:
    """The session entries with which this processor's integer kernels are exact; found once a process.

    Raises:
        BackendError: there are none.
    """
    for entries in ({}, PRECISE):
        if self_test(entries):
            return entries
    raise BackendError("this processor's u8 x s8 kernels saturate", where="onnx", way_on=_ELSEWHERE)


@cache
def computed_products_are_exact(depth: int = 128) -> bool:
    """MatMulInteger of all 255 by 127, computed: ONNX Runtime rewrites only constant weights to u8."""
    x, product = ir.val("x", ir.DataType.UINT8, [16, depth]), ir.val("product", ir.DataType.INT32, [16, 16])
    half = ir.val("half", const_value=ir.Tensor(np.uint8(128), name="half"))
    lower, columns, signed = (ir.val(name) for name in ("lower", "columns", "signed"))
    nodes = [
        ir.node("Sub", [x, half], outputs=[lower]),
        ir.node("Transpose", [lower], {"perm": [1, 0]}, outputs=[columns]),
        ir.node("Cast", [columns], {"to": ir.DataType.INT8}, outputs=[signed]),
        ir.node("MatMulInteger", [x, signed], outputs=[product]),
    ]
    graph = ir.Graph([x], [product], nodes=nodes, initializers=[half], opset_imports={"": OPSET}, name="computed")
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    (found,) = open_session(model, {}).run(None, {"x": np.full((16, depth), 255, np.uint8)})
    return bool((found == depth * 255 * 127).all())


def self_test(entries: Mapping[str, str], *, depth: int = 128) -> bool:
    """QLinearConv and MatMulInteger of all 255 by all 127 give the exact numbers; pairs of products saturate 16 bits."""
    expected = depth * 255 * 127
    step = expected // 200
    results = open_session(_extremes(depth, step), entries).run(None, {"x": np.full((16, depth), 255, np.uint8)})
    return bool((results[0] == expected).all()) and bool((results[1] == round(expected / step)).all())


def _extremes(depth: int, step: int) -> bytes:
    """A model of one product and one convolution that divides its sums by `step`; x is u8 of shape [16, depth]."""

    def constant(name: str, array: Any) -> ir.Value:
        return ir.val(name, const_value=ir.Tensor(np.asarray(array), name=name))

    x, image = ir.val("x", ir.DataType.UINT8, [16, depth]), ir.val("image")
    product, convolution = ir.val("product", ir.DataType.INT32, [16, 16]), ir.val("convolution", ir.DataType.UINT8, [1, 16, 4, 4])
    weight = constant("weight", np.full((depth, 16), 127, np.int8))
    kernel = constant("kernel", np.full((16, depth, 1, 1), 127, np.int8))
    shape, scale = constant("shape", np.array([1, depth, 4, 4])), constant("scale", np.float32(1 / step))
    one, zero, point = constant("one", np.float32(1)), constant("zero", np.uint8(0)), constant("point", np.int8(0))
    nodes = [
        ir.node("MatMulInteger", [x, weight], outputs=[product]),
        ir.node("Reshape", [x, shape], outputs=[image]),
        ir.node("QLinearConv", [image, one, zero, kernel, scale, point, one, zero], outputs=[convolution]),
    ]
    initializers = [weight, kernel, shape, one, scale, zero, point]
    graph = ir.Graph([x], [product, convolution], nodes=nodes, initializers=initializers, opset_imports={"": OPSET}, name="self_test")
    serialised: bytes = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    return serialised
