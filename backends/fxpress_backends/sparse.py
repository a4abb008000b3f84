"""arrays <==> one bit an element, and the elements that are not the commonest one: a safetensors file beside a payload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fxpress_ir.errors import ArtifactError
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

Arrays = Mapping[str, NDArray[Any]]
FILE = "sparse.safetensors"
MARGIN = 512
"""Bytes that an array has to be smaller by: two entries of the file's header, and what the payload says in its place."""
_BITS, _VALUES = "bits:", "values:"
_DTYPES = frozenset({"float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"})


def worthwhile(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Those of `arrays` that take fewer bytes so, in the order of their names."""
    return {name: arrays[name] for name in sorted(arrays) if _is_worthwhile(arrays[name])}


def write(arrays: Arrays, folder: Path) -> dict[str, Any]:
    """Save `arrays` in `folder`; returns the record with which `read` gives them back, to stand in the manifest.

    The file holds, for each, ``bits:NAME``, uint8, one bit an element in their order, high bits first, and ``values:NAME``, the
    elements whose bit is 1, of the array's dtype. The others are the record's ``fill``, as an unsigned number of their bits.
    """
    stored, record = {}, {}
    for name, array in arrays.items():
        raw = _raw(array)
        fill = _commonest(raw)
        differs = raw != fill
        stored[_BITS + name], stored[_VALUES + name] = np.packbits(differs), array.reshape(-1)[differs]
        record[name] = {"shape": list(array.shape), "fill": fill}
    save_file(stored, folder / FILE)
    return {"file": FILE, "tensors": record}


def read(folder: Path, record: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays that `write` saved, bit for bit.

    Raises:
        ArtifactError: the file or the record is malformed.
    """
    try:
        stored = load_file(folder / Path(record["file"]).name)
        return {name: _expanded(stored[_BITS + name], stored[_VALUES + name], **one) for name, one in record["tensors"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError, SafetensorError) as error:
        raise ArtifactError(
            "its sparse weights are malformed", where=f"artifact {str(folder)!r}", way_on="lower the program again"
        ) from error


def _expanded(bits: NDArray[Any], values: NDArray[Any], shape: list[int], fill: int) -> NDArray[Any]:
    count = int(np.prod(shape, dtype=np.int64))
    if bits.dtype != np.uint8 or len(bits) != -(-count // 8):
        raise ValueError("bits of another length")
    differs = np.unpackbits(bits, count=count).view(bool)
    raw = np.full(count, fill, f"u{values.dtype.itemsize}")
    raw[differs] = _raw(values)  # of another number they do not fit
    return raw.view(values.dtype).reshape(shape)


def _raw(array: NDArray[Any]) -> NDArray[Any]:
    """The elements as unsigned numbers of their bits: -0 is not 0, and NaN equals itself."""
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def _commonest(raw: NDArray[Any]) -> int:
    """Of bytes, which may be stored with an offset, whichever number it is; 0 of the others."""
    return int(np.bincount(raw, minlength=1).argmax()) if raw.dtype == np.uint8 else 0


def _is_worthwhile(array: NDArray[Any]) -> bool:
    if array.dtype.name not in _DTYPES or array.nbytes <= MARGIN:
        return False
    raw = _raw(array)
    kept = int(np.count_nonzero(raw != _commonest(raw)))
    return -(-array.size // 8) + kept * array.dtype.itemsize + MARGIN < array.nbytes
