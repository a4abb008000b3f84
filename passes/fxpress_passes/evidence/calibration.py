"""batches ==> checked, re-iterable batches; a one-shot iterator is spooled to disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, InputError
from safetensors.torch import load_file, save_file
from torch import Tensor

Batch = tuple[Tensor, ...]


class Calibration:
    """Calibration batches, each a tuple of input tensors (a lone tensor stands for a tuple of one).

    Raises (on the first walk through the data):
        CalibrationError: no batch; a batch that does not fit the program's inputs; NaN or infinity.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        if isinstance(batches, Tensor) or not hasattr(batches, "__iter__"):
            raise CalibrationError(f"calibration is a {type(batches).__name__}", way_on="pass an iterable of input tuples")
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._batches = self._spooled(batches) if isinstance(batches, Iterator) else batches

    def _spooled(self, batches: Iterator[Any]) -> Iterable[Any]:
        self._spool = tempfile.TemporaryDirectory(prefix="fxpress-calibration-")
        folder = Path(self._spool.name)
        files = []
        for position, batch in enumerate(batches):
            file = folder / f"{position}.safetensors"
            tensors = as_batch(batch, position)
            # copied, because one tensor may be given for two inputs and a file holds no memory twice
            copies = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors]
            save_file({f"{place:04}": copy for place, copy in enumerate(copies)}, file)
            files.append(file)
        return _Files(files)

    def batches(self, program: Program) -> Iterator[Batch]:
        """The batches, each held to the program's inputs."""
        count = 0
        for position, batch in enumerate(self._batches):
            tensors = as_batch(batch, position)
            try:
                program.check_inputs(tensors)
            except InputError as error:
                where = ", ".join(filter(None, (f"calibration batch {position}", error.where)))
                raise CalibrationError(error.what, where=where, way_on=error.way_on) from error
            for spec, tensor in zip(program.inputs, tensors, strict=True):
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    where = f"calibration batch {position}, input {spec.name!r}"
                    raise CalibrationError("holds NaN or infinity", where=where, way_on="remove or repair the sample")
            count += 1
            yield tensors
        if not count:
            raise CalibrationError("calibration holds no batch", way_on="pass at least one tuple of inputs")

    def first(self, program: Program) -> Batch:
        """The first batch."""
        return next(self.batches(program))

    def __len__(self) -> int:
        return len(self._batches) if isinstance(self._batches, Sized) else sum(1 for _ in self._batches)


class _Files:
    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __iter__(self) -> Iterator[Batch]:
        return (tuple(tensor for _, tensor in sorted(load_file(file).items())) for file in self._files)

    def __len__(self) -> int:
        return len(self._files)


def as_batch(batch: Any, position: int) -> Batch:
    """A batch as a tuple of tensors.

    Raises:
        CalibrationError: it is no tuple or list, or holds what no tensor can be made of.
    """
    parts = (batch,) if isinstance(batch, Tensor) or hasattr(batch, "__array__") else batch
    where, way_on = f"calibration batch {position}", "pass a tuple of tensors, one for each input"
    if not isinstance(parts, (tuple, list)):
        raise CalibrationError(f"is a {type(batch).__name__}", where=where, way_on=way_on)
    try:
        return tuple(part if isinstance(part, Tensor) else torch.as_tensor(part) for part in parts)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(f"holds what is no tensor: {error}", where=where, way_on=way_on) from error
