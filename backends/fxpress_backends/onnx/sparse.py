"""model.onnx ==> the same, its initialisers that get smaller so in a file beside it (`apart`), given to ONNX Runtime at load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from fxpress_ir.errors import BackendError
from onnx import TensorProto, numpy_helper

from .. import apart
from .lower import FILE, INLINE_LIMIT

_PLAIN = frozenset(
    getattr(TensorProto, name)
    for name in ("FLOAT16", "FLOAT", "DOUBLE", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64")
)
"""Types of whole bytes, which NumPy has itself."""


def make_sparse(folder: Path) -> dict[str, Any]:
    """Rewrite ``model.onnx`` in `folder`, where that makes the folder smaller; returns the record for the manifest, its tensors none
    where it does not.

    Raises:
        BackendError: the model is so large that its weights have a file of their own already.
    """
    path = folder / FILE
    before = path.stat().st_size
    model = onnx.load(path, load_external_data=False)
    dense = [one for one in model.graph.initializer if one.data_type in _PLAIN]
    if any(one.data_location == TensorProto.EXTERNAL for one in model.graph.initializer):
        what = f"its weights take more than {INLINE_LIMIT >> 30} GiB and have a file of their own"
        raise BackendError(what, where="onnx", way_on="lower it without sparse storage")
    chosen = apart.worthwhile({one.name: numpy_helper.to_array(one) for one in dense}, is_sparse=True)
    if not chosen:
        return {"tensors": {}}
    record = apart.write(chosen, folder)
    for one in dense:
        if one.name in chosen:
            _leave_out(one)
    small = model.SerializeToString(deterministic=True)
    beside = folder / apart.FILE
    if len(small) + beside.stat().st_size >= before:
        beside.unlink()
        return {"tensors": {}}
    path.write_bytes(small)
    return record


def _leave_out(tensor: Any) -> None:
    """Its bytes go; it stays declared, as data of a file that ONNX Runtime is not to read."""
    tensor.ClearField("raw_data")
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=apart.FILE)


def initialisers(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """ONNX Runtime's values of what is stored so, by name."""
    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in apart.read(folder, record).items()}
