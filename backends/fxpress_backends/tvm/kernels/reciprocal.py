"""1 / s = R / 2**(16 + n) for a row's sum: one table entry and a Newton step on 64-bit integers, once a row."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from .operand import Expr


def reciprocal(seeds: Expr, total: Expr) -> tuple[Expr, Expr]:
    """R and n (int32) of an int32 sum, 0 counting as 1; the table's steps of 2**22 count from 2**30."""

    def down(value: Expr, by: int) -> Expr:
        return T.shift_right(value, T.int64(by))

    s = T.bind(T.Cast("int64", T.max(total, T.int32(1))))
    n = T.bind(63 - T.Cast("int64", T.clz(s)))
    m = T.bind(T.shift_left(s, 30 - n))
    start = T.bind(T.Cast("int64", seeds[down(m, 22) - 256]))
    rest = T.int64(1 << 31) - down(m + (1 << 14), 15) * start
    return T.bind(T.Cast("int32", start + down(start * down(rest, 8) + (1 << 22), 23))), T.bind(T.Cast("int32", n))
