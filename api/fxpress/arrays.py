"""``.npz`` file ==> batches, read row by row out of the archive: no array is whole in memory, no pickle is read."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from fxpress_ir import InputSpec
from fxpress_ir.errors import CalibrationError
from numpy.lib import format as npy
from numpy.typing import NDArray

from .batching import Batching

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True)
class _Column:
    """One array of the file: its member's name, dtype and shape, samples first."""

    member: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def rows(self, stream: IO[bytes], count: int) -> NDArray[Any]:
        """The next `count` samples."""
        size = count * math.prod(self.shape[1:]) * self.dtype.itemsize
        content = stream.read(size)
        if len(content) != size:
            raise EOFError(f"{self.member} ends early")
        return np.frombuffer(bytearray(content), self.dtype).reshape(count, *self.shape[1:])


class Arrays:
    """Batches of an ``.npz`` file's arrays for `inputs`, in their order.

    Raises:
        CalibrationError: the file is no archive of arrays; an input has no array; a shape or dtype does not fit; an array
            holds Python objects or is stored in Fortran order; there is not one batch. While walking: damage.
    """

    def __init__(self, path: Path, inputs: Sequence[InputSpec], batching: Batching) -> None:
        self._path, self._where = path, f"calibration {str(path)!r}"
        with self._opened() as file:
            names = [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]
            chosen = names if len(names) == len(inputs) == 1 else [spec.name for spec in inputs]
            for name in chosen:
                if name not in names:
                    message = f"no array {name!r}, it holds {', '.join(map(repr, names)) or 'none'}"
                    raise CalibrationError(message, where=self._where, way_on="name arrays as the model's inputs: savez(path, name=array)")
            self._columns = [self._column(file, name, spec) for name, spec in zip(chosen, inputs, strict=True)]
        counts = {column.shape[0] for column in self._columns}
        if len(counts) > 1:
            found = ", ".join(f"{name!r} {column.shape[0]}" for name, column in zip(chosen, self._columns, strict=True))
            raise CalibrationError(f"arrays of different numbers of samples: {found}", where=self._where, way_on="save as many of each")
        self._spans = batching.spans(counts.pop(), self._where)

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
        with self._opened() as file, ExitStack() as stack:
            streams = [stack.enter_context(file.open(column.member)) for column in self._columns]
            for stream in streams:
                _header(stream)
            for span in self._spans:
                count = span.stop - span.start
                yield tuple(column.rows(stream, count) for column, stream in zip(self._columns, streams, strict=True))

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as file:
                yield file
        except OSError as error:
            raise CalibrationError(f"cannot be read: {error.strerror or error}", where=self._where, way_on="check the file") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            first = str(error).split("\n")[0][:100]
            raise CalibrationError(
                f"is no intact .npz file: {first}", where=self._where, way_on="save it again with numpy.savez"
            ) from error

    def _column(self, file: zipfile.ZipFile, name: str, spec: InputSpec) -> _Column:
        where = f"{self._where}, array {name!r}"
        with file.open(f"{name}.npy") as stream:
            shape, fortran, dtype = _header(stream)
        wanted = str(spec.dtype).removeprefix("torch.")
        if dtype.hasobject:
            raise CalibrationError("holds Python objects, which only a pickle can", where=where, way_on="save arrays of numbers")
        if str(dtype) != wanted:
            raise CalibrationError(f"dtype is {dtype}, input {spec} needs {wanted}", where=where, way_on=f"save array.astype({wanted!r})")
        if len(shape) != len(spec.shape):
            raise CalibrationError(
                f"shape {list(shape)} has {len(shape)} dimensions, input {spec}", where=where, way_on="samples come first"
            )
        for axis, (size, expected) in enumerate(zip(shape, spec.shape, strict=True)):
            if axis and not (size == expected if isinstance(expected, int) else expected.admits(size)):
                message = f"dimension {axis} of shape {list(shape)} does not fit input {spec}"
                raise CalibrationError(message, where=where, way_on=f"save samples of shape {list(map(str, spec.shape[1:]))}")
        if fortran and len(shape) > 1:
            raise CalibrationError("is stored in Fortran order", where=where, way_on="save numpy.ascontiguousarray(array)")
        return _Column(f"{name}.npy", dtype, shape)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"format version {version} of an array")
    shape, fortran, dtype = _HEADERS[version](stream)
    return shape, fortran, dtype
