"""acc[16] += left[4] . right[16][4] of bytes, where both are computed: what each CPU's dot products take on the left, and how.

The right is s8 everywhere; AVX512-VNNI and ``usdot`` (i8mm) take u8 on the left, ``sdot`` s8, for which u8 is stored less 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES
from . import vnni
from .operand import Expr
from .quads import SIGNS, word_at

_PARTS = 4
_SUMS, _SHORT = LANES // _PARTS, BYTES // _PARTS


class Vnni:
    """64 products an instruction, the left u8."""

    @staticmethod
    def word(words: Any, at: Expr, dtype: str) -> Expr:
        """One word of the left, stored as `dtype`, for `dot`."""
        return word_at(words, at)

    @staticmethod
    def zero(zero: int, dtype: str) -> int:
        """What a left word holds for the integer 0, which its storage holds as `zero`."""
        return zero

    @staticmethod
    def dot(acc: Expr, word: Expr, right: Expr, dtype: str) -> Expr:
        """int32x16 plus dot products of a left word, stored as `dtype`, with `right`, int8x64."""
        return vnni.dot(acc, word, right)

    @staticmethod
    def ones() -> Expr:
        """A left word of ones."""
        return T.Broadcast(T.int8(1), BYTES)

    @staticmethod
    def added_up(acc: Expr, values: Expr) -> Expr:
        """int32x16 plus the sums of each four of 64 u8, whose bits are int8x64."""
        return vnni.dot(acc, values, T.Broadcast(T.int8(1), BYTES))


class Sdot(Vnni):
    """16 products an instruction, both sides s8."""

    @staticmethod
    def word(words: Any, at: Expr, dtype: str) -> Expr:
        value = T.Broadcast(words[at], _SUMS)
        signed = T.bitwise_xor(value, T.Broadcast(T.int32(SIGNS), _SUMS)) if dtype == "uint8" else value
        return T.bind(T.reinterpret(f"int8x{_SHORT}", signed))

    @staticmethod
    def zero(zero: int, dtype: str) -> int:
        return zero - 128 if dtype == "uint8" else zero

    @staticmethod
    def dot(acc: Expr, word: Expr, right: Expr, dtype: str) -> Expr:
        return _by_parts("sdot", acc, lambda _: word, right)

    @staticmethod
    def ones() -> Expr:
        return T.Broadcast(T.int8(1), _SHORT)

    @staticmethod
    def added_up(acc: Expr, values: Expr) -> Expr:
        return _by_parts("udot", acc, lambda part: _part(values, part, BYTES), T.Broadcast(T.int8(1), BYTES))


class Usdot(Sdot):
    """As `Sdot`, with u8 on the left as it is."""

    @staticmethod
    def word(words: Any, at: Expr, dtype: str) -> Expr:
        return T.bind(T.reinterpret(f"int8x{_SHORT}", T.Broadcast(words[at], _SUMS)))

    @staticmethod
    def zero(zero: int, dtype: str) -> int:
        return zero

    @staticmethod
    def dot(acc: Expr, word: Expr, right: Expr, dtype: str) -> Expr:
        return _by_parts("usdot" if dtype == "uint8" else "sdot", acc, lambda _: word, right)


def _by_parts(name: str, acc: Expr, left: Callable[[int], Expr], right: Expr) -> Expr:
    """A dot product for each quarter of the sums; cutting and joining only names registers."""
    parts = [four_sums(name, _part(acc, part, LANES), left(part), _part(right, part, BYTES)) for part in range(_PARTS)]
    return T.Shuffle(parts, [T.int32(lane) for lane in range(LANES)])


def four_sums(name: str, acc: Expr, left: Expr, right: Expr) -> Expr:
    """int32x4 plus dot products of 16 bytes with 16: ``sdot``, ``udot``, or ``usdot`` with u8 on the left."""
    return T.call_llvm_pure_intrin(f"int32x{_SUMS}", f"llvm.aarch64.neon.{name}", acc, left, right)


def _part(vector: Expr, part: int, lanes: int) -> Expr:
    count = lanes // _PARTS
    return T.Shuffle([vector], [T.int32(part * count + lane) for lane in range(count)])
