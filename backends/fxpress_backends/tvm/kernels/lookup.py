"""64 bytes ==> the entries of a table of 256 that they number, by permutes of what lies in registers: 128, 64 or 16 entries at a time.

``vpermi2b`` (AVX512-VBMI) picks of two registers of 64, ``tbl`` (NEON) of four of 16, ``pshufb`` (AVX512BW, AVX2) of one of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES
from .operand import Expr

_ENTRIES, _SHORT = 256, 16
Table = Callable[[Expr], Expr]
"""Numbers of entries, side by side ==> the entries, bytes."""
Lookup = Callable[[Table], Callable[[Expr], Expr]]
"""table ==> what turns int8x64 to int8x64; the registers are loaded where it is called."""


def by_two_registers(table: Table) -> Callable[[Expr], Expr]:
    """The low seven bits of each byte number an entry of two registers; the top bit selects the half of the table."""
    quarters = [T.bind(entry) for entry in _parts(table, BYTES)]

    def find(byte: Expr) -> Expr:
        low, high = (permuted(quarters[number], byte, quarters[number + 1]) for number in (0, 2))
        return T.Select(byte < T.Broadcast(T.int8(0), BYTES), high, low)

    return find


def permuted(first: Expr, byte: Expr, second: Expr) -> Expr:
    """``vpermi2b``."""
    return T.call_llvm_pure_intrin(f"int8x{BYTES}", "llvm.x86.avx512.vpermi2var.qi.512", first, byte, second)


def by_sixteens(width: int) -> Lookup:
    """``pshufb`` of `width` bytes: the low four bits of each byte number an entry of 16; the upper four select, one after the other."""
    intrinsic = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}[width]

    def lookup(table: Table) -> Callable[[Expr], Expr]:
        every = [T.int32(byte) for byte in range(width)]
        tables = [T.bind(T.Shuffle([entry] * (width // _SHORT), every)) for entry in _parts(table, _SHORT)]

        def find(byte: Expr) -> Expr:
            return _joined([part(some) for some in _cut(byte, width)], width)

        def part(byte: Expr) -> Expr:
            entry = T.bind(T.bitwise_and(byte, T.Broadcast(T.int8(_SHORT - 1), width)))
            found = [T.call_llvm_pure_intrin(f"int8x{width}", intrinsic, some, entry) for some in tables]
            for bit in (4, 5, 6, 7):
                # a blend looks at the top bit of each byte alone
                top = T.bind(T.shift_left(byte, T.Broadcast(T.int8(7 - bit), width)) if bit < 7 else byte)
                pairs = zip(found[::2], found[1::2], strict=True)
                found = [T.Select(top < T.Broadcast(T.int8(0), width), high, low) for low, high in pairs]
            return found[0]

        return find

    return lookup


def by_four_registers(table: Table) -> Callable[[Expr], Expr]:
    """``tbl`` gives 0 for what is no entry of its 64, ``tbx`` what was found before."""
    registers = [T.bind(entry) for entry in _parts(table, _SHORT)]
    fours = [registers[first : first + 4] for first in range(0, len(registers), 4)]

    def find(byte: Expr) -> Expr:
        return _joined([part(some) for some in _cut(byte, _SHORT)], _SHORT)

    def part(byte: Expr) -> Expr:
        found = T.call_llvm_pure_intrin(f"int8x{_SHORT}", "llvm.aarch64.neon.tbl4", *fours[0], byte)
        for number, four in enumerate(fours[1:], 1):
            entry = T.bitwise_xor(byte, T.Broadcast(T.int8((number * 64 + 128) % 256 - 128), _SHORT))
            found = T.call_llvm_pure_intrin(f"int8x{_SHORT}", "llvm.aarch64.neon.tbx4", found, *four, entry)
        return found

    return find


LOOKUPS: Mapping[str, Lookup] = {
    "vpermi2b": by_two_registers,
    "pshufb-512": by_sixteens(64),
    "pshufb-256": by_sixteens(32),
    "tbl": by_four_registers,
}
"""By the names that plans use."""


def _parts(table: Table, count: int) -> list[Expr]:
    return [T.reinterpret(f"int8x{count}", table(T.Ramp(first, 1, count))) for first in range(0, _ENTRIES, count)]


def _cut(byte: Expr, width: int) -> list[Expr]:
    """64 bytes as vectors of `width`."""
    if width == BYTES:
        return [byte]
    return [T.bind(T.Shuffle([byte], [T.int32(lane) for lane in range(first, first + width)])) for first in range(0, BYTES, width)]


def _joined(parts: list[Expr], width: int) -> Expr:
    return parts[0] if width == BYTES else T.Shuffle([T.bind(part) for part in parts], [T.int32(lane) for lane in range(BYTES)])
