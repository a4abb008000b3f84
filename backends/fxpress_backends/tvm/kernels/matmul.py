"""acc = x @ y of two computed matrices for each index of the leading dimensions; a leading dimension of size 1 is read again and again."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, WORD
from .byte_dot import Sdot, Usdot, Vnni
from .epilogue import finish, requantization
from .operand import Call, Expr, Operand, lanes
from .quads import Quads
from .shorts import ChannelPairs, RowPairs, accumulate

_ALL = T.Ramp(0, 1, LANES)


def matmul_loops(call: Call) -> None:
    """16 columns at a time, on any CPU; tasks are tiles of rows, of which the last repeats the last row."""
    (x, y), output, tile = call.inputs, call.output, call.attributes["tile"]
    *heads, rows = output.outer
    steps = (rows + tile - 1) // tile
    with T.parallel(_matrices(output) * steps) as task:
        place = unravelled(task // steps, heads)
        left, right = (place_of(operand, output, place) for operand in (x, y))
        chosen = [T.bind(T.min(task % steps * tile + row, rows - 1)) for row in range(tile)]
        with T.serial(output.blocks) as block:
            sums = [T.alloc_buffer((LANES,), "int32") for _ in chosen]
            for partial in sums:
                T.buffer_store(partial, lanes(0), [_ALL])
            with T.serial(x.logical_channels) as depth:
                values = T.bind(y.integers([*right, depth], block * LANES))
                for row, partial in zip(chosen, sums, strict=True):
                    value = T.Cast("int32", x.load([*left, row], depth)) - x.spec.zero
                    T.buffer_store(partial, partial[_ALL] + T.Broadcast(value, LANES) * values, [_ALL])
            parameters = requantization(call, block * LANES)
            for row, partial in zip(chosen, sums, strict=True):
                finish(call, partial[_ALL], parameters, [*place, row], block * LANES)


def matmul_vnni(call: Call) -> None:
    _matmul(call, Vnni)


def matmul_sdot(call: Call) -> None:
    _matmul(call, Sdot)


def matmul_usdot(call: Call) -> None:
    _matmul(call, Usdot)


def _matmul(call: Call, dots: type[Vnni]) -> None:
    """Tasks are matrices: y is packed once, then tiles of rows walk over it; the last tile repeats the last row."""
    (x, y), output, tile = call.inputs, call.output, call.attributes["tile"]
    *heads, rows = output.outer
    words, depth = x.words(), y.outer[-1]
    with T.parallel(_matrices(output)) as task:
        place = unravelled(task, heads)
        left, right = (place_of(operand, output, place) for operand in (x, y))
        packed = Quads(y, right, depth)
        with T.serial(output.blocks) as block:
            start, parameters = _start(x, packed, block, dots), requantization(call, block * LANES)
            with T.serial((rows + tile - 1) // tile) as step:
                chosen = [T.bind(T.min(step * tile + row, rows - 1)) for row in range(tile)]
                sums = [T.alloc_buffer((LANES,), "int32") for _ in chosen]
                for partial in sums:
                    T.buffer_store(partial, start, [_ALL])
                first = [T.bind(T.floordiv(x.offset([*left, row]), WORD)) for row in chosen]
                with T.serial(packed.count) as quad:
                    values = T.bind(packed.at(block, quad))
                    for at, partial in zip(first, sums, strict=True):
                        word = dots.word(words, at + quad, x.spec.dtype)
                        T.buffer_store(partial, dots.dot(partial[_ALL], word, values, x.spec.dtype), [_ALL])
                for row, partial in zip(chosen, sums, strict=True):
                    finish(call, partial[_ALL], parameters, [*place, row], block * LANES)


def matmul_avx2(call: Call) -> None:
    """As dot products, in pairs; a tile of rows is widened once for all columns."""
    (x, y), output, tile = call.inputs, call.output, call.attributes["tile"]
    *heads, rows = output.outer
    with T.parallel(_matrices(output)) as task:
        place = unravelled(task, heads)
        left, right = (place_of(operand, output, place) for operand in (x, y))
        packed, pairs = RowPairs(y, right, y.outer[-1]), ChannelPairs(x, tile)
        with T.serial((rows + tile - 1) // tile) as step:
            chosen = [T.bind(T.min(step * tile + row, rows - 1)) for row in range(tile)]
            pairs.take([[*left, row] for row in chosen])
            with T.serial(output.blocks) as block:
                sums = [T.alloc_buffer((LANES,), "int32") for _ in chosen]
                for partial in sums:
                    T.buffer_store(partial, lanes(0), [_ALL])
                with T.serial(packed.count) as pair:
                    values = packed.at(block, pair)
                    for row, partial in enumerate(sums):
                        accumulate(partial, pairs.pairs, row * pairs.count + pair, values)
                parameters = requantization(call, block * LANES)
                for row, partial in zip(chosen, sums, strict=True):
                    finish(call, partial[_ALL], parameters, [*place, row], block * LANES)


def _matrices(output: Operand) -> Expr:
    """How many there are: the product of all dimensions before rows and columns."""
    count = output.lead
    for size in output.outer[:-1]:
        count = count * size
    return count


def _start(x: Operand, packed: Quads, block: Expr, dots: type[Vnni]) -> Expr:
    """What takes off x's zero point: as often the sum of each column of y."""
    zero = dots.zero(x.spec.zero, x.spec.dtype)
    if not zero:
        return lanes(0)
    total = T.alloc_buffer((LANES,), "int32")
    T.buffer_store(total, lanes(0), [_ALL])
    with T.serial(packed.count) as quad:
        T.buffer_store(total, dots.dot(total[_ALL], dots.ones(), packed.at(block, quad), "int8"), [_ALL])
    return T.bind(total[_ALL] * lanes(-zero))


def unravelled(position: Expr, extents: Sequence[Expr]) -> list[Expr]:
    """The leading indices of a matrix counted over all of them; the first dimension's size is not needed."""
    indices: list[Expr] = []
    for extent in reversed(extents):
        indices.insert(0, T.bind(position % extent))
        position = position // extent
    return [T.bind(position), *indices]


def place_of(operand: Operand, output: Operand, place: Sequence[Expr]) -> list[Expr]:
    sizes, wanted = (operand.spec.lead, *operand.spec.outer[:-1]), (output.spec.lead, *output.spec.outer[:-1])
    return [index if size == full else 0 for index, size, full in zip(place, sizes, wanted, strict=True)]
