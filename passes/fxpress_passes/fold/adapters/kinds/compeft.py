"""tau ==> sign(top k of |tau|) x one scale, as a bitmask or Golomb-coded gaps and one bit a sign, and back without loss (ComPEFT, M230)."""

from __future__ import annotations

import math

import torch
from fxpress_ir.errors import PassError
from torch import Tensor

from ..layer import Folded, Kind, Layer

CODINGS = ("bitmask", "golomb")


def encode(tau: Tensor, density: float, alpha: float = 1.0, coding: str = "golomb") -> dict[str, Tensor]:
    """What the folder holds of a task vector, by name below the module's path.

    Args:
        tau: of any shape, float.
        density: the share of elements kept, those of the largest magnitudes.
        alpha: times the standard deviation of tau is the scale.

    Returns:
        ``compeft_code`` and ``compeft_signs``, uint8, eight bits a byte; ``compeft_scale`` float64 [1]; ``compeft_count`` int64 [3]:
        elements, the Golomb parameter (0 for a bitmask), and how many were kept.

    Raises:
        PassError: an unknown coding.
    """
    if coding not in CODINGS:
        raise PassError(f"coding={coding!r}", where="compeft", way_on=f"one of {', '.join(CODINGS)}")
    flat = tau.detach().flatten().double()
    kept = max(1, round(density * len(flat)))
    places = flat.abs().topk(kept).indices.sort().values
    parameter = _parameter(kept, len(flat)) if coding == "golomb" else 0
    mask = torch.zeros(len(flat), dtype=torch.bool).index_fill(0, places, True)
    bits = _golomb(places, parameter) if parameter else mask
    return {
        "compeft_code": _packed(bits),
        "compeft_signs": _packed(flat[places] < 0),
        "compeft_scale": (alpha * flat.std()).reshape(1),
        "compeft_count": torch.tensor([len(flat), parameter, kept]),
    }


def decode(code: Tensor, signs: Tensor, scale: Tensor, count: Tensor) -> Tensor:
    """The task vector that was stored, flat, float64.

    Raises:
        PassError: the code does not hold as many places as it says.
    """
    size, parameter, kept = (int(value) for value in count)
    bits = _unpacked(code)
    places = _gaps(bits, parameter, kept) if parameter else bits[:size].nonzero().flatten()
    if len(places) != kept or (kept and int(places[-1]) >= size) or len(signs) * 8 < kept:
        raise PassError(f"the code holds {len(places)} places, not {kept} of {size}", where="compeft_code", way_on="save the adapter again")
    values = torch.where(_unpacked(signs)[:kept], -scale.double(), scale.double())
    return torch.zeros(size, dtype=torch.float64).index_put((places,), values)


def _parameter(kept: int, size: int) -> int:
    """Golomb's best divisor for gaps between places of this density, as a power of two (Rice)."""
    density = kept / size
    return 1 if density >= 0.5 else 1 << max(0, round(math.log2(-math.log(2) / math.log1p(-density))))


def _golomb(places: Tensor, parameter: int) -> Tensor:
    """gap = q * parameter + r ==> q ones, a zero, r in binary."""
    gaps = torch.diff(places, prepend=torch.tensor([-1])) - 1
    width, bits = parameter.bit_length() - 1, []
    for gap in gaps.tolist():
        ones, rest = divmod(gap, parameter)
        bits += [True] * ones + [False] + [bool(rest >> at & 1) for at in reversed(range(width))]
    return torch.tensor(bits, dtype=torch.bool)


def _gaps(bits: Tensor, parameter: int, kept: int) -> Tensor:
    width, values, at, place = parameter.bit_length() - 1, bits.tolist(), 0, -1
    places: list[int] = []
    while len(places) < kept and at < len(values):
        ones = 0
        while at < len(values) and values[at]:
            ones, at = ones + 1, at + 1
        rest = sum(int(bit) << (width - 1 - k) for k, bit in enumerate(values[at + 1 : at + 1 + width]))
        at, place = at + 1 + width, place + 1 + ones * parameter + rest
        places.append(place)
    return torch.tensor(places, dtype=torch.int64)


def _packed(bits: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).reshape(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(1).to(torch.uint8)


def _unpacked(packed: Tensor) -> Tensor:
    return ((packed.reshape(-1, 1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten().bool()


def _fold(layer: Layer) -> Folded:
    """W + scale * sign, exactly the stored vector."""
    return layer.plus(decode(*(layer[f"compeft_{name}"] for name in ("code", "signs", "scale", "count"))).reshape(layer.weight.shape))


KINDS = {"COMPEFT": Kind(_fold, ("compeft_",), "M230")}
