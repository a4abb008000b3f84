"""batches ==> checked, re-iterable batches; a one-shot iterator is spooled to disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sized
from itertools import count
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
        self._batches = _Spool(batches) if isinstance(batches, Iterator) else batches
        self._counted = 0

    def batches(self, program: Program) -> Iterator[Batch]:
        """The batches, each held to the program's inputs."""
        position = -1
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
            yield tensors
        self._counted = position + 1
        if not self._counted:
            raise CalibrationError("calibration holds no batch", way_on="pass at least one tuple of inputs")

    def first(self, program: Program) -> Batch:
        """The first batch."""
        return next(self.batches(program))

    def __len__(self) -> int:
        return self.known or sum(1 for _ in self._batches)

    @property
    def known(self) -> int:
        """The number of batches; 0 where it is not known before the first walk."""
        try:
            return len(self._batches) if isinstance(self._batches, Sized) else self._counted
        except TypeError:  # a DataLoader of an IterableDataset has a length that raises
            return self._counted


class _Spool:
    """What an iterator gives, written to disk while the first walk goes on, so that a second one can follow."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._rest, self._files = batches, list[Path]()
        self._folder = tempfile.TemporaryDirectory(prefix="fxpress-calibration-")
        self._failed: BaseException | None = None

    def __iter__(self) -> Iterator[Batch]:
        for position in count():
            if position == len(self._files) and not self._draw():
                return
            yield tuple(tensor for _, tensor in sorted(load_file(self._files[position]).items()))

    def _draw(self) -> bool:
        """Write one more batch; False at the end. An iterator that failed once would end early the next time."""
        if self._failed is not None:
            raise self._failed
        position = len(self._files)
        try:
            for batch in self._rest:
                # copied, because one tensor may be given for two inputs and a file holds no memory twice
                copies = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in as_batch(batch, position)]
                file = Path(self._folder.name) / f"{position}.safetensors"
                save_file({f"{place:04}": copy for place, copy in enumerate(copies)}, file)
                self._files.append(file)
                return True
        except BaseException as error:
            self._failed = error
            raise
        return False


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
