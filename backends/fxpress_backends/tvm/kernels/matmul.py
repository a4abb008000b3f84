"""acc = x @ y of two computed matrices for each index of the leading dimensions; a leading dimension of size 1 is read again and again."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, WORD
from .epilogue import finish, requantization
from .operand import Call, Expr, Operand, lanes, over
from .quads import Quads, word_at
from .vnni import dot

_ALL = T.Ramp(0, 1, LANES)


def matmul_loops(call: Call) -> None:
    """16 columns at a time, on any CPU."""
    (x, y), output = call.inputs, call.output

    def row(outer: list[Expr]) -> None:
        left, right = (_place(operand, output, outer[:-1]) for operand in (x, y))
        with T.serial(output.blocks) as block:
            sums = T.alloc_buffer((LANES,), "int32")
            T.buffer_store(sums, lanes(0), [_ALL])
            with T.serial(x.logical_channels) as depth:
                value = T.Cast("int32", x.load([*left, outer[-1]], depth)) - x.spec.zero
                T.buffer_store(sums, sums[_ALL] + T.Broadcast(value, LANES) * y.integers([*right, depth], block * LANES), [_ALL])
            finish(call, sums[_ALL], requantization(call, block * LANES), outer, block * LANES)

    over(output, row)


def matmul_vnni(call: Call) -> None:
    """Tasks are matrices: y is packed once, then tiles of rows walk over it; the last tile repeats the last row."""
    (x, y), output, tile = call.inputs, call.output, call.attributes["tile"]
    *heads, rows = output.outer
    words, depth = x.words(), y.outer[-1]
    count = output.lead
    for size in heads:
        count = count * size
    with T.parallel(count) as task:
        place = unravelled(task, heads)
        left, right = (_place(operand, output, place) for operand in (x, y))
        packed = Quads(y, right, depth)
        with T.serial(output.blocks) as block:
            start, parameters = _start(x, packed, block), requantization(call, block * LANES)
            with T.serial((rows + tile - 1) // tile) as step:
                chosen = [T.bind(T.min(step * tile + row, rows - 1)) for row in range(tile)]
                sums = [T.alloc_buffer((LANES,), "int32") for _ in chosen]
                for partial in sums:
                    T.buffer_store(partial, start, [_ALL])
                first = [T.bind(T.floordiv(x.offset([*left, row]), WORD)) for row in chosen]
                with T.serial(packed.count) as quad:
                    values = T.bind(packed.at(block, quad))
                    for at, partial in zip(first, sums, strict=True):
                        T.buffer_store(partial, dot(partial[_ALL], word_at(words, at + quad), values), [_ALL])
                for row, partial in zip(chosen, sums, strict=True):
                    finish(call, partial[_ALL], parameters, [*place, row], block * LANES)


def _start(x: Operand, packed: Quads, block: Expr) -> Expr:
    """What takes off x's zero point: as often the sum of each column of y."""
    if not x.spec.zero:
        return lanes(0)
    total = T.alloc_buffer((LANES,), "int32")
    T.buffer_store(total, lanes(0), [_ALL])
    with T.serial(packed.count) as quad:
        ones = T.Broadcast(T.int8(1), BYTES)
        T.buffer_store(total, dot(total[_ALL], ones, packed.at(block, quad)), [_ALL])
    return T.bind(total[_ALL] * lanes(-x.spec.zero))


def unravelled(position: Expr, extents: Sequence[Expr]) -> list[Expr]:
    """The leading indices of a matrix counted over all of them; the first dimension's size is not needed."""
    indices: list[Expr] = []
    for extent in reversed(extents):
        indices.insert(0, T.bind(position % extent))
        position = position // extent
    return [T.bind(position), *indices]


def _place(operand: Operand, output: Operand, place: Sequence[Expr]) -> list[Expr]:
    sizes, wanted = (operand.spec.lead, *operand.spec.outer[:-1]), (output.spec.lead, *output.spec.outer[:-1])
    return [index if size == full else 0 for index, size, full in zip(place, sizes, wanted, strict=True)]
