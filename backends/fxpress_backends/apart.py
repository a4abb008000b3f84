"""arrays <==> what their values need: the commonest one left out, the others at as many bits as they span; a file beside a payload.

The file is a safetensors one and says all by itself. For each array NAME it holds

- ``form:NAME``, int64: kind (DLPack's code: 0 signed, 1 unsigned, 2 float), bits of an element, bits of a unit, bits that a unit is
  stored in, least unit, fill, and the shape. Units are the integers that are packed: elements, or the bytes of 32-bit ones.
- ``values:NAME``: the elements as they are where a unit is stored in 0 bits; else, uint8, the units less the least one, a stream
  (`bits.packed`).
- ``mask:NAME``, uint8, where elements are left out: one bit an element in their order, high bits first, 1 for those that ``values``
  has. The others are the fill, an unsigned number of their bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from fxpress_ir.errors import ArtifactError
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from . import bits

Arrays = Mapping[str, NDArray[Any]]
FILE = "weights.safetensors"
MARGIN = 512
"""Bytes that an array has to be smaller by: the entries of the file's header, and what the payload says in its place."""
LEAST = 4096
"""Bytes that all have to save together where nobody asked: for less, no artifact gets a file more to carry and to open."""
_FORM, _VALUES, _MASK = "form:", "values:", "mask:"
_KINDS = "iuf"
_DTYPES = frozenset({"float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"})
_UNITS = {"int8": "int8", "uint8": "uint8", "int16": "int16", "int32": "int8"}
"""What of an element is packed; kernels of GPUs read four weights as an int32."""


@dataclass(frozen=True)
class Stored:
    """One array as the file holds it; the mask is there where elements are left out."""

    form: NDArray[np.int64]
    values: NDArray[Any]
    mask: NDArray[np.uint8] | None = None

    @property
    def width(self) -> int:
        """Bits of a stored unit."""
        return int(self.form[3]) or int(self.form[1])

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.values.nbytes) + (0 if self.mask is None else int(self.mask.nbytes))


def worthwhile(arrays: Arrays, *, is_sparse: bool) -> dict[str, Stored]:
    """Those of `arrays` that get smaller, in the order of their names: packed, and with `is_sparse` without their commonest value, too.

    Without `is_sparse` none where they save little together.
    """
    found = {}
    for name in sorted(arrays):
        array = arrays[name]
        if array.dtype.name in _DTYPES and array.nbytes > MARGIN:
            forms = [form for form in (dense(array), sparse(array) if is_sparse else None) if form is not None]
            best = min(forms, key=lambda form: form.size, default=None)
            if best is not None and best.size + MARGIN < array.nbytes:
                found[name] = best
    saved = sum(arrays[name].nbytes - one.size - MARGIN for name, one in found.items())
    return found if is_sparse or saved >= LEAST else {}


def write(stored: Mapping[str, Stored], folder: Path) -> dict[str, Any]:
    """Save them in `folder`; returns the record for the manifest: the file, and for each array its bits, bytes and dense bytes."""
    file: dict[str, NDArray[Any]] = {}
    record = {}
    for name, one in stored.items():
        file |= {_FORM + name: one.form, _VALUES + name: one.values}
        if one.mask is not None:
            file[_MASK + name] = one.mask
        dense = prod(map(int, one.form[6:])) * int(one.form[1]) // 8
        record[name] = {"bits": one.width, "bytes": one.size, "dense_bytes": dense}
    if file:
        save_file(file, folder / FILE)
    return {"file": FILE, "tensors": record} if file else {"tensors": record}


def read(folder: Path, record: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays that `write` saved, bit for bit, in the order of their names; none where the record has none.

    Raises:
        ArtifactError: the file is malformed, or holds others than the record says.
    """
    try:
        names = sorted(record["tensors"])
        file = load_file(folder / Path(record["file"]).name) if names else {}
        if [name for name in sorted(file) if name.startswith(_FORM)] != [_FORM + name for name in names]:
            raise ValueError("other arrays")
        return {name: _expanded(file[_FORM + name], file[_VALUES + name], file.get(_MASK + name)) for name in names}
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, MemoryError, OSError, SafetensorError) as error:
        raise ArtifactError(
            f"its weights in {FILE} are malformed", where=f"artifact {str(folder)!r}", way_on="lower the program again"
        ) from error


def dense(array: NDArray[Any]) -> Stored | None:
    """At fewer bits; None where the values span more."""
    least, width, values = _packed(array)
    return Stored(_form(array, width, least, 0), values) if width else None


def sparse(array: NDArray[Any]) -> Stored:
    """Without the commonest value; what is left at fewer bits, where it spans no more."""
    raw = _raw(array)
    fill = _commonest(raw)
    differs = raw != fill
    least, width, values = _packed(array.reshape(-1)[differs])
    return Stored(_form(array, width, least, fill), values, np.packbits(differs))


def _form(array: NDArray[Any], width: int, least: int, fill: int) -> NDArray[np.int64]:
    unit = np.dtype(_UNITS[array.dtype.name]).itemsize if width else array.dtype.itemsize
    sizes = (array.dtype.itemsize * 8, unit * 8)
    return np.array([_KINDS.index(array.dtype.kind), *sizes, width, least, fill, *array.shape], np.int64)


def _packed(array: NDArray[Any]) -> tuple[int, int, NDArray[Any]]:
    """The least unit, bits of a unit and the stream; 0, 0 and the elements where they span more than 7 bits."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if array.dtype.name in _UNITS and flat.size:
        units = flat.view(_UNITS[array.dtype.name])
        least, most = int(units.min()), int(units.max())
        width = max(1, (most - least).bit_length())
        if width <= bits.MOST:
            return least, width, bits.packed((units - units.dtype.type(least)).astype(np.uint8), width)
    return 0, 0, flat


def _expanded(form: NDArray[Any], values: NDArray[Any], mask: NDArray[Any] | None) -> NDArray[Any]:
    if form.dtype != np.int64 or form.ndim != 1 or min(form[:4].min(initial=0), form[5:].min(initial=0)) < 0:
        raise ValueError("no form")
    kind, size, unit, width, least, fill, *shape = map(int, form)
    dtype, count = np.dtype(f"{_KINDS[kind : kind + 1]}{size // 8}"), prod(shape)
    differs = None if mask is None else _differs(mask, count)
    kept = count if differs is None else int(differs.sum())
    if width:
        values = _units(values, width, least, kept * size // unit, np.dtype(f"{_KINDS[kind : kind + 1]}{unit // 8}")).view(dtype)
    if values.dtype != dtype or values.shape != (kept,):
        raise ValueError("values of another type or number")
    if differs is None:
        return values.reshape(shape)
    raw = np.full(count, fill, f"u{dtype.itemsize}")
    raw[differs] = _raw(values)
    return raw.view(dtype).reshape(shape)


def _units(stream: NDArray[Any], width: int, least: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The packed units."""
    limits = np.iinfo(dtype)
    if not limits.min <= least <= limits.max:
        raise ValueError("the least unit is none")
    found = bits.unpacked(stream, width, count).astype(dtype, copy=False)
    found += dtype.type(least)
    return found


def _differs(mask: NDArray[Any], count: int) -> NDArray[np.bool_]:
    if mask.dtype != np.uint8 or mask.shape != (-(-count // 8),):
        raise ValueError("a mask of another length")
    return np.unpackbits(mask, count=count).view(bool)


def _raw(array: NDArray[Any]) -> NDArray[Any]:
    """The elements as unsigned numbers of their bits: -0 is not 0, and NaN equals itself."""
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def _commonest(raw: NDArray[Any]) -> int:
    """Of bytes, which may be stored with an offset, whichever number it is; 0 of the others."""
    return int(np.bincount(raw, minlength=1).argmax()) if raw.dtype == np.uint8 else 0
