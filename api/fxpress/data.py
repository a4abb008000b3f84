"""``.npz`` file, folder of images or ``package.module:factory`` ==> calibration batches that can be walked any number of times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fxpress_ir import InputSpec, Program
from fxpress_ir.errors import CalibrationError, FxpressError
from fxpress_passes.evidence import Calibration
from fxpress_passes.evidence.distilled import distill
from torch import Tensor

from .arrays import Arrays
from .batching import Batching
from .factory import call_factory, failed, is_factory
from .images import Images


@dataclass(frozen=True)
class Data:
    """Where calibration data come from.

    Attributes:
        source: an ``.npz`` file, a folder of images, ``package.module:factory``, which is imported and run, or ``distilled``:
            made from the model's batch norms (ZeroQ).
        batch_size: samples a batch, 32 unless given; not for a factory, which makes its own batches.
        limit: samples at most.
        mean, std: of each channel of images, after they were scaled to [0, 1]; one number stands for all channels.
    """

    source: str
    batch_size: int | None = None
    limit: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


DISTILLED = "distilled"
"""The source that needs no data."""


def calibration_for(data: Data | None, own: Iterable[Any] | None, program: Program, seed: int) -> Calibration | None:
    """The data that were asked for, or else the model's own; None where there are neither.

    Args:
        program: as captured; distilled data are made from its batch norms.

    Raises:
        CalibrationError: as `open_data`; or there are no batch norms to distil from.
    """
    if data is None:
        return None if own is None else Calibration(own)
    if data.source == DISTILLED:
        if data.limit is not None or data.mean or data.std:
            where = f"calibration {DISTILLED!r}"
            raise CalibrationError("limit, mean and std are for data that there are", where=where, way_on="leave them out")
        return Calibration(distill(program, batch_size=data.batch_size or 32, seed=seed).batches)
    return Calibration(open_data(data, program.inputs))


def open_data(data: Data, inputs: Sequence[InputSpec]) -> Iterable[tuple[Any, ...]]:
    """Batches of arrays or tensors for `inputs`; memory holds one batch at a time, each walk reads anew.

    An ``.npz`` file holds one array an input, by the inputs' names, or a single one of any name for a single input; the
    first axis counts samples. Images (png, jpg, bmp, webp; in folders within the folder too, in the order of their paths)
    are converted to the input's 1 or 3 channels, resized (bilinear) to its height and width and scaled to [0, 1].

    Raises:
        CalibrationError: the source is missing, empty or of an unknown kind; an array's name, shape or dtype does not fit
            the inputs; while walking: an image cannot be read, a factory's batch is no batch.
        InputError: the factory cannot be found, or raised.
    """
    where, path = f"calibration {data.source!r}", Path(data.source)
    if path.is_dir():
        if len(inputs) != 1:
            raise CalibrationError(f"images for {len(inputs)} inputs", where=where, way_on="use an .npz file or a factory")
        return Images(path, inputs[0], Batching.of(inputs, data.batch_size, data.limit, where), data.mean, data.std)
    if data.mean or data.std:
        raise CalibrationError("mean and std are for images", where=where, way_on="normalise the samples and leave them out")
    if is_factory(data.source) and not path.exists():
        if data.batch_size is not None:
            raise CalibrationError("a factory makes its own batches", where=where, way_on="leave batch_size out")
        return _Factory(data.source, call_factory(data.source), data.limit)
    if not path.exists():
        raise CalibrationError(
            "no such file or folder", where=where, way_on="pass an .npz file, a folder of images or package.module:factory"
        )
    if path.suffix != ".npz":
        raise CalibrationError("is neither an .npz file nor a folder", where=where, way_on="save arrays with numpy.savez")
    return Arrays(path, inputs, Batching.of(inputs, data.batch_size, data.limit, where))


class _Factory:
    """What a factory returned, cut after `limit` samples; an iterator is made anew for each walk."""

    def __init__(self, name: str, returned: Any, limit: int | None) -> None:
        if not isinstance(returned, Iterable):
            message = f"the factory returned a {type(returned).__name__}"
            raise CalibrationError(message, where=f"calibration {name!r}", way_on="return an iterable of input tuples")
        self._name, self._returned, self._limit = name, returned, limit

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        left = self._limit
        for batch in self._walk():
            parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            if left is not None:
                if left <= 0:
                    return
                try:
                    parts, left = tuple(part[:left] for part in parts), left - len(parts[0])
                except (TypeError, IndexError) as error:
                    message = f"a batch of a {type(batch).__name__} has no samples to count"
                    raise CalibrationError(message, where=f"calibration {self._name!r}", way_on="leave limit out") from error
            yield parts

    def _walk(self) -> Iterator[Any]:
        try:
            yield from call_factory(self._name) if isinstance(self._returned, Iterator) else self._returned
        except FxpressError:
            raise
        except Exception as error:  # of the user's code
            raise failed("a batch", self._name, error) from error


def drawn(program: Program, seed: int) -> tuple[Tensor, ...]:
    """Inputs for a program without calibration data: floats are standard normal, integers 0 or 1."""
    generator = torch.Generator().manual_seed(seed)

    def like(zeros: Tensor) -> Tensor:
        if zeros.is_floating_point():
            return torch.randn(zeros.shape, generator=generator).to(zeros.dtype)
        return torch.randint(0, 2, zeros.shape, generator=generator).to(zeros.dtype)

    return tuple(map(like, program.example()))
