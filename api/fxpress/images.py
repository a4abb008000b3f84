"""folder of images ==> batches [n, channels, height, width] of float32 in [0, 1], then (x - mean) / std."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from fxpress_ir import InputSpec
from fxpress_ir.errors import CalibrationError
from numpy.typing import NDArray
from PIL import Image

from .batching import Batching

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_MODES = {1: "L", 3: "RGB"}


class Images:
    """Batches of the images below `folder`, in the order of their paths; each walk reads the files anew.

    Args:
        spec: the input, float32 [batch, 1 or 3, height, width].
        mean, std: of each channel; one number stands for all, none for 0 and 1.

    Raises:
        CalibrationError: the input is none of images; no image in the folder; as many means as no channel has. While
            walking: a file that cannot be read, named.
    """

    def __init__(self, folder: Path, spec: InputSpec, batching: Batching, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        where = f"calibration {str(folder)!r}"
        self._size = _size(spec, where)
        channels = self._size[0]
        self._mean, self._std = _channels("mean", mean, 0.0, channels, where), _channels("std", std, 1.0, channels, where)
        if not (self._std > 0).all():
            raise CalibrationError("a std is not positive", where=where, way_on="give the deviation of each channel in [0, 1]")
        self._files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not self._files:
            raise CalibrationError("holds no images", where=where, way_on=f"put {', '.join(SUFFIXES)} files there")
        self._spans = batching.spans(len(self._files), where)

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32]]]:
        for span in self._spans:
            yield (np.stack([self._read(path) for path in self._files[span]]),)

    def _read(self, path: Path) -> NDArray[np.float32]:
        channels, height, width = self._size
        try:
            with Image.open(path) as image:
                sized = image.convert(_MODES[channels]).resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
            what = f"cannot be read: {str(error)[:100]}"
            raise CalibrationError(what, where=f"image {str(path)!r}", way_on="remove or repair it") from error
        pixels = np.asarray(sized, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / np.float32(255)
        scaled: NDArray[np.float32] = (pixels - self._mean) / self._std
        return scaled


def _size(spec: InputSpec, where: str) -> tuple[int, int, int]:
    fixed = [size for size in spec.shape[1:] if isinstance(size, int)]
    if spec.dtype is not torch.float32 or len(spec.shape) != 4 or len(fixed) != 3 or fixed[0] not in _MODES:
        message = f"input {spec} is no float32 [batch, 1 or 3, height, width] of fixed height and width"
        raise CalibrationError(message, where=where, way_on="use an .npz file or a factory")
    return fixed[0], fixed[1], fixed[2]


def _channels(name: str, given: tuple[float, ...], default: float, channels: int, where: str) -> NDArray[np.float32]:
    values = given or (default,)
    if len(values) not in (1, channels) or not np.isfinite(values).all():
        raise CalibrationError(
            f"{name} {list(values)} for {channels} channels", where=where, way_on="one finite number a channel, or one for all"
        )
    return np.broadcast_to(np.asarray(values, np.float32), channels).reshape(channels, 1, 1)
