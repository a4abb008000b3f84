"""Target, and what it reads ==> the dot products that multiply it by fixed weights, and those weights in their order."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import pack
from .draft import Draft
from .physical import Buffer
from .tile import AVX2_REGISTERS, NEON_REGISTERS, REGISTERS, THREAD_REGISTERS, WIDENING_REGISTERS

_TWO = 2
"""Positions that a product of matrices takes at a time."""
_WIDE = "dot products take bytes, its input has 16 bits"
_NO_SIGN = "its second operand has no sign"
_LEAST = "with a weight of -128 two products may not fit 16 bits"
_BYTES = ("int8", "uint8")


@dataclass(frozen=True)
class Dots:
    """One kind of dot products.

    Attributes:
        name: what its kernels are called after ``conv2d_`` and ``linear_``.
        registers: how many of 16 sums a tile may take.
        refusal: why it cannot read the source; empty where it can.
        why: why it is no faster kind; empty where there is none.
        together: positions that one instruction takes.
    """

    name: str
    registers: int
    refusal: str = ""
    why: str = ""
    together: int = 1


def unreadable(draft: Draft, source: Buffer) -> str:
    """Why AVX512-VNNI cannot read the source; nothing where it can."""
    if not draft.dot_products:
        return "the target has no AVX512-VNNI"
    return "" if source.dtype == "uint8" else _WIDE


def computed_products(draft: Draft, left: Buffer, right: Buffer) -> tuple[str, str]:
    """What multiplies two computed matrices, as kernels are called after ``matmul_``, and why it is no faster kind."""
    if draft.signed_dot_products:
        if left.dtype not in _BYTES or right.dtype not in _BYTES:
            return "loops", _WIDE
        signed = "usdot" if draft.matrix_products else "sdot"
        return (signed, "") if right.dtype == "int8" else ("loops", _NO_SIGN)
    if draft.widening_products:
        return "loops", "the target has no dot products"
    if draft.products_of_pairs:
        return ("avx2", "") if {left.dtype, right.dtype} <= set(_BYTES) else ("loops", _WIDE)
    slow = unreadable(draft, left) or ("" if right.zero else _NO_SIGN)
    return ("loops", slow) if slow else ("vnni", "")


def dot_products(draft: Draft, source: Buffer, weight: NDArray[Any]) -> Dots:
    """The target's for this source and these weights; `paired` says whether a layer can have more."""
    wide = "" if source.dtype in _BYTES else _WIDE
    if draft.words_of_threads:
        return Dots("dp4a", THREAD_REGISTERS, wide)
    if draft.signed_dot_products:
        return Dots("sdot", NEON_REGISTERS, wide)
    if draft.widening_products:
        return Dots("smull", WIDENING_REGISTERS, wide or (_LEAST if weight.min() == -128 else ""))
    if draft.products_of_pairs:
        readable = source.dtype in AVX2_REGISTERS
        return Dots("avx2", AVX2_REGISTERS.get(source.dtype, 0), "" if readable else f"products of pairs take no {source.dtype}")
    return Dots("vnni", REGISTERS, unreadable(draft, source))


def paired(draft: Draft, dots: Dots, result: Buffer, depth: int) -> Dots:
    """Products of matrices in place of dot products, where the target has them and the layer fills them.

    Args:
        result: what the layer gives, whose positions go by twos.
        depth: channels that each position of the input has for an output.
    """
    if not draft.matrix_products or dots.refusal:
        return dots
    why = ""
    if depth % pack.EIGHT:
        why = f"products of matrices take {pack.EIGHT} channels at a time, a position has {depth}"
    elif _positions(result) == 1:
        why = f"products of matrices take {_TWO} positions, there is one"
    return Dots("sdot", dots.registers, why=why) if why else Dots("mmla", dots.registers, together=_TWO)


def _positions(result: Buffer) -> int | None:
    """The pixels of an image, as tiles stay inside of one, or all rows; None where they depend on a symbolic size."""
    sizes = result.pixels if result.layout == "NHWC" else (result.lead, *result.outer)
    return prod(size for size in sizes if isinstance(size, int)) if all(isinstance(size, int) for size in sizes) else None


def packed(dots: Dots, words: NDArray[np.int8], source: Buffer) -> NDArray[Any]:
    """Weights [oc / 16, words, 64] (`pack.weights_by_word`) as the kernels of these dot products read them."""
    if dots.name == "dp4a":
        return words.view(np.int32)
    if dots.name == "avx2":
        return (pack.pairs_of_words if source.dtype == "int16" else pack.halves_of_words)(words)
    if dots.name == "smull":
        return pack.twos_of_words(words)
    return pack.eights_of_words(words) if dots.name == "mmla" else words
