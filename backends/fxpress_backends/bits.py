"""small unsigned integers <==> a stream of so many bits each, the first in the lowest bits of the first byte."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

MOST = 7
"""Of eight bits nothing is left out."""


def packed_bytes(count: int, width: int) -> int:
    """How many bytes hold `count` values of `width` bits."""
    return -(-count * width // 8)


def packed(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """[count] values below ``2**width`` ==> [packed_bytes(count, width)]; `width` is 1 to 7, the last byte's upper bits are 0."""
    period, span = _period(width)
    groups = -(-len(values) // period)
    held = np.zeros((groups, period), np.uint8)
    held.reshape(-1)[: len(values)] = values
    stream = np.zeros((groups, span), np.uint8)
    for place in range(period):
        byte, shift = divmod(place * width, 8)
        stream[:, byte] |= held[:, place] << np.uint8(shift)
        if shift + width > 8:
            stream[:, byte + 1] |= held[:, place] >> np.uint8(8 - shift)
    return stream.reshape(-1)[: packed_bytes(len(values), width)]


def unpacked(stream: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    """What `packed` was given.

    Raises:
        ValueError: the stream has another type or length, or a width that nothing is packed at.
    """
    if not 1 <= width <= MOST or stream.dtype != np.uint8 or stream.shape != (packed_bytes(count, width),):
        raise ValueError(f"{stream.dtype}{list(stream.shape)} is no stream of {count} x {width} bits")
    period, span = _period(width)
    groups = -(-count // period)
    if stream.size != groups * span:
        stream = np.concatenate([stream, np.zeros(groups * span - stream.size, np.uint8)])
    octets, mask = stream.reshape(groups, span), np.uint8((1 << width) - 1)
    values = np.empty((groups, period), np.uint8)
    for place in range(period):
        byte, shift = divmod(place * width, 8)
        value = octets[:, byte] >> np.uint8(shift)
        if shift + width > 8:
            value |= octets[:, byte + 1] << np.uint8(8 - shift)
        np.bitwise_and(value, mask, out=values[:, place])
    return values.reshape(-1)[:count]


def _period(width: int) -> tuple[int, int]:
    """The least values that fill whole bytes, and those bytes."""
    common = gcd(width, 8)
    return 8 // common, width // common
