"""shape of a product ==> how AMX cuts it: tiles of 16 rows x 16 words times tiles of 16 words x 16 channels; or why it does not pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from .pack import LANES, WORD
from .physical import Buffer

ROWS = 16
"""Of a tile, each of up to 16 words."""
_SOONEST = 12
"""Rows that a product of tiles takes as long for as for fewer: four sums in turn hide 52 cycles of latency, a row takes one.
This and what follows are published rates of the instructions; no kernel was timed on AMX."""
_FEWEST_ROWS, _FEWEST_WORDS, _FEWEST_INPUTS = 4, 4, 64
"""Below these a product of tiles is no faster than dot products: a row of 16 x 64 bytes a cycle, against two vectors of 64."""
_CACHED = 1 << 20
"""Bytes of weights that stay in a core's cache while rows pass; more of them are read once, in the outermost loop."""


def even(length: int) -> int:
    """The rows of the tiles that cover a length most evenly."""
    return -(-length // -(-length // ROWS))


def _cost(tiles: int, rows: int) -> int:
    return tiles * max(rows, _SOONEST)


def conv2d_tiles(source: Buffer, output: Buffer, window: Mapping[str, Any], inputs: int, outputs: int) -> tuple[dict[str, Any], int, str]:
    """The settings of `conv2d_amx`, the words that lie side by side in the input, and why tiles do not pay, if they do not.

    Args:
        window: kernel, stride and dilation.
        inputs, outputs: stored channels of a group.

    Returns:
        Settings ``tile`` (rows, tiles of rows, tiles of channels), ``across`` (tiles run on from row to row over what the input
        stores between) and ``weights_outermost``.
    """
    (height, width), pitch = output.pixels, _pitch(source)
    across = _runs_across(height, width, window["stride"], pitch)
    strips, length = (1, (height - 1) * pitch + width) if across else (height, width)
    rows, taps = even(length), prod(window["kernel"])
    side_by_side = window["kernel"][1] if window["dilation"][1] == 1 and inputs == source.channels else 1
    run = inputs * side_by_side // WORD
    tile = [rows, min(2, strips * -(-length // rows)), min(2, outputs // LANES)]
    settings = {"tile": tile, "across": across, "weights_outermost": output.channels * taps * inputs > _CACHED}
    return settings, run, too_small(rows, run, taps * inputs)


def linear_tiles(source: Buffer, output: Buffer) -> tuple[dict[str, Any], str]:
    """The settings of `linear_amx`, as of `conv2d_tiles`, and why tiles do not pay, if they do not.

    Where the number of rows is only known when it runs, tiles have 16, or all of them where they are fewer. A batch that is
    symbolic counts as one, a length as many.
    """
    known = [size for size in (output.lead, *output.outer) if isinstance(size, int)]
    fixed = len(known) == 1 + len(output.outer)
    least = prod(known) if all(isinstance(size, int) for size in output.outer) else ROWS
    tile = [even(least) if fixed else ROWS, 1 if fixed and least <= ROWS else 2, min(2, output.channels // LANES)]
    settings = {"tile": tile, "weights_outermost": source.channels * output.channels > _CACHED}
    return settings, too_small(least, source.channels // WORD, source.channels)


def _pitch(source: Buffer) -> int:
    """Pixels of a stored row."""
    pitch = source.middle[1] if source.middle else 1
    assert isinstance(pitch, int), "an image"
    return pitch


def _runs_across(height: int, width: int, stride: Sequence[int], pitch: int) -> bool:
    length = (height - 1) * pitch + width
    in_rows = _cost(height * -(-width // even(width)), even(width))
    return list(stride) == [1, 1] and _cost(-(-length // even(length)), even(length)) < in_rows


def too_small(rows: int, run: int, inputs: int = _FEWEST_INPUTS) -> str:
    """Why dot products do a product instead; nothing where tiles pay.

    Args:
        rows: the least number that it has.
        run: words that lie side by side.
        inputs: bytes that each sum takes, where only one product is asked about.
    """
    if rows < _FEWEST_ROWS:
        return f"tiles want {_FEWEST_ROWS} rows, it has {rows}"
    if run < _FEWEST_WORDS:
        return f"tiles want {_FEWEST_WORDS * WORD} bytes side by side, it has {run * WORD}"
    return f"tiles want {_FEWEST_INPUTS} inputs, a sum has {inputs}" if inputs < _FEWEST_INPUTS else ""
