"""Values that move, alone and one after the other, give the bits of their operators: any place, any fill, any channels."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program
from support import aten, built, fxp
from torch import fx
from tvm_cases import BYTES, S8, U8, Body, Check, Limits, convolution

VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI))
Move = Callable[[Edit, fx.Node], fx.Node]


def called(operator: object, *rest: object) -> Move:
    return lambda edit, x: edit.call(operator, x, *rest)


def select(rows: Sequence[int], columns: Sequence[int]) -> Move:
    return called(fxp.select2d.default, list(rows), list(columns))


def pad(padding: Sequence[int], value: int) -> Move:
    return called(fxp.pad2d.default, list(padding), value)


def cut(dim: int, *numbers: int | None) -> Move:
    return called(aten.slice.Tensor, dim, *numbers)


def grow(*size: int) -> Move:
    return called(aten.expand.default, list(size))


def join(axis: int, *moves: Move) -> Move:
    return lambda edit, x: edit.call(fxp.concat.default, [move(edit, x) for move in moves], axis)


def then(*moves: Move) -> Move:
    def together(edit: Edit, x: fx.Node) -> fx.Node:
        for move in moves:
            x = move(edit, x)
        return x

    return together


def shuffle(groups: int, channels: int, height: int, width: int) -> Move:
    return then(
        called(aten.reshape.default, [-1, groups, channels // groups, height, width]),
        called(aten.transpose.int, 1, 2),
        called(aten.reshape.default, [-1, channels, height, width]),
    )


def added(limits: Limits) -> Move:
    return lambda edit, x: edit.call(fxp.add.default, x, x, 3, 5, 3, *limits)


def same(edit: Edit, x: fx.Node) -> fx.Node:
    return x


DEPTH_TO_SPACE = then(
    called(aten.reshape.default, [-1, 2, 3, 5, 3, 4]),
    called(aten.permute.default, [0, 3, 4, 1, 5, 2]),
    called(aten.reshape.default, [-1, 5, 6, 12]),
)


def moves(doubled: Move) -> tuple[tuple[tuple[int, ...], Move], ...]:
    """Shapes and moves; `doubled` keeps the type."""
    return (
        ((17, 3, 4), select([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2, 3, 3])),
        ((5, 3, 4), select([2, 0, 2], [3])),
        ((40, 3, 4), called(fxp.insert_zeros.default, [2, 3])),
        ((5, 1, 1), called(fxp.insert_zeros.default, [1, 2])),
        ((17, 3, 4), pad((1, 2, 0, 3), 5)),
        ((64, 3, 4), pad((0, 0, 0, 0), 0)),
        ((5, 4, 4), pad((-1, 1, 2, -2), 127)),
        ((5, 2, 3), then(pad((1, 0, 1, 0), 3), pad((1, 1, 1, 1), 9), pad((0, 1, 0, 1), 9))),
        ((40, 2, 3), cut(1, 0, 16)),
        ((40, 2, 3), cut(1, 16, sys.maxsize)),
        ((40, 2, 3), cut(1, 7, 30)),
        ((40, 2, 3), cut(-3, -9, None, 2)),
        ((5, 6, 7), then(cut(2, 1, -1), cut(3, None, sys.maxsize, 3))),
        ((5, 6, 7), cut(0, 0, sys.maxsize)),
        ((33,), cut(1, 3, 20)),
        ((6, 33), then(cut(1, 1, sys.maxsize, 2), cut(-1, 17, 33))),
        ((40, 1, 1), grow(-1, 40, 3, 5)),
        ((1, 3, 1), grow(-1, 20, -1, 4)),
        ((1, 33), grow(-1, 7, 33)),
        ((32, 3, 3), join(1, same, same)),
        ((17, 3, 3), join(1, same, doubled, cut(1, 3, 9), same)),
        ((17, 3, 3), join(-1, same, doubled)),
        ((17, 3, 3), join(2, cut(2, 1, 3), doubled, same)),
        ((17, 3, 3), join(0, same, doubled)),
        ((21,), join(1, same, cut(1, 0, 11), doubled)),
        ((3, 21), join(1, same, doubled)),
        ((5, 3, 4), join(1, same)),
        ((6, 3, 4), shuffle(2, 6, 3, 4)),
        ((48, 2, 2), shuffle(3, 48, 2, 2)),
        ((116, 2, 1), shuffle(4, 116, 2, 1)),
        ((30, 3, 4), DEPTH_TO_SPACE),
        ((30, 3, 4), then(cut(1, 0, 30, 1), DEPTH_TO_SPACE, cut(2, 1, 5), select([0, 0, 3], [1]))),
        ((4, 6), then(called(aten.transpose.int, 1, 2), called(aten.reshape.default, [-1, 8, 3]), cut(1, 2, 7))),
        ((6, 4, 4), then(join(1, same, doubled), shuffle(2, 12, 4, 4), cut(1, 6, 12), join(1, doubled, same), shuffle(3, 12, 4, 4))),
        ((8, 3, 3), then(select([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]), join(1, same, select([5, 4, 3, 2, 1, 0], range(6))))),
    )  # fmt: skip


@BYTES
def test_moves(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Between kernels that pad their channels where values have a sign, alone where they have none."""

    doubled = added(S8 if dtype == torch.int8 else U8)

    def between(move: Move) -> Body:
        return then(doubled, move, lambda edit, x: edit.call(fxp.add.default, x, x, 5, 7, 3, *U8))

    kept = between if dtype == torch.int8 else (lambda move: move)
    same_on_extremes([(shape, dtype, kept(move)) for shape, move in moves(doubled)], batches=(1, 3))


@BYTES
def test_moved_images_enter_padded_convolutions(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """One value moved twice and read by convolutions with other halos, by a pool, and moved on."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        doubled = added(S8 if dtype == torch.int8 else U8)
        shared = then(join(1, same, doubled), shuffle(2, 20, 5, 5))(edit, x)
        wide = convolution((20, 24, 1, (5, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 1, S8)(edit, shared)
        spread = edit.call(fxp.insert_zeros.default, cut(1, 3, 8)(edit, shared), [2, 2])
        narrow = convolution((5, 24, 1, (10, 10), (2, 2), (2, 2), (1, 1, 0, 0), (1, 1)), 2, S8)(edit, spread)
        narrow = cut(3, 0, 5)(edit, cut(2, 0, 5)(edit, narrow))
        return edit.call(fxp.add.default, wide, narrow, 13001, -9001, 14, *S8)

    same_on_extremes([((10, 5, 5), dtype, body)])


@BYTES
def test_a_step_that_is_read_after_what_follows_from_it(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Either has a copy and tables of its own."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        step = select([1, 0, 2], [2, 0, 1])(edit, x)
        further = select([2, 2, 0], [1, 2, 0])(edit, step)
        pooled = [edit.call(fxp.max_pool2d.default, value, [1, 1], [1, 1], [0] * 4, [1, 1]) for value in (further, step)]
        return edit.call(fxp.add.default, *pooled, 13001, -9001, 14, *S8)

    same_on_extremes([((5, 3, 3), dtype, body)])


def drawn(chooser: random.Random) -> tuple[tuple[int, ...], Move]:
    """One to five random moves of an s8 image."""
    doubled = added(S8)
    shape = channels, height, width = chooser.choice([4, 6, 16, 18, 34]), chooser.randint(1, 4), chooser.randint(1, 4)
    moves: list[Move] = []
    for _ in range(chooser.randint(1, 5)):
        kind = chooser.choice(["select", "pad", "insert", "cut", "join", "shuffle"])
        if kind == "select":
            rows = [chooser.randrange(height) for _ in range(chooser.randint(1, 5))]
            columns = [chooser.randrange(width) for _ in range(chooser.randint(1, 5))]
            moves.append(select(rows, columns))
            height, width = len(rows), len(columns)
        elif kind == "pad":
            padding = [chooser.randint(0, 2) for _ in range(4)]
            moves.append(pad(padding, chooser.choice([0, 0, 77])))
            height, width = height + padding[0] + padding[2], width + padding[1] + padding[3]
        elif kind == "insert" and height * width < 40:
            moves.append(called(fxp.insert_zeros.default, [2, 1]))
            height *= 2
        elif kind == "cut":
            first = chooser.randrange(channels)
            moves.append(cut(1, first, sys.maxsize))
            channels -= first
        elif kind == "join" and channels < 100:
            moves.append(join(1, same, chooser.choice([doubled, same, cut(1, 0, channels)])) if moves else join(1, same, same))
            channels *= 2
        elif kind == "shuffle" and channels % 2 == 0:
            moves.append(shuffle(2, channels, height, width))
    return shape, then(doubled, *moves)


def test_random_moves(same_on_extremes: Check) -> None:
    chooser = random.Random(11)
    same_on_extremes([(*chosen[:1], torch.int8, chosen[1]) for chosen in (drawn(chooser) for _ in range(20))])


def test_moves_of_integers_of_32_bits(side_by_side: Check, same_bits: Check) -> None:
    """Accumulators are moved as they are."""
    moves = (cut(1, 3, 20), cut(2, 1, 2), shuffle(2, 22, 3, 2), then(called(aten.permute.default, [0, 2, 3, 1]), cut(3, 1, 22, 2)))
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-(2**31), 2**31 - 1, (3, 22, 3, 2), generator=generator, dtype=torch.int32)
    same_bits(side_by_side([((22, 3, 2), torch.int32, move) for move in moves]), [x] * len(moves), [x[:1]] * len(moves))


def test_moves_along_a_fixed_batch(fixed: Callable[..., Program], same_bits: Check) -> None:
    """Slices and expansions of dimension 0, and a permutation of it before a view."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        first = edit.call(fxp.add.default, cut(0, 1, 2)(edit, x), cut(0, -1, None)(edit, x), 3, -2, 2, *S8)
        grown = join(0, grow(4, 5, 2, 3), cut(0, 0, 1))(edit, first)
        turned = edit.call(aten.reshape.default, edit.call(aten.permute.default, grown, [1, 0, 2, 3]), [10, 5, 3])
        return edit.call(fxp.add.default, turned, turned, 1, 1, 1, *S8)

    generator = torch.Generator().manual_seed(4)
    example = torch.randint(-128, 128, (3, 5, 2, 3), generator=generator, dtype=torch.int8)
    same_bits(fixed(example, body), [example])


def test_constants_among_images(fixed: Callable[..., Program], same_bits: Check) -> None:
    """Joined to channels and to images, added, read as padding needs it, in rows and moved by numbers."""
    generator = torch.Generator().manual_seed(5)

    def codes(edit: Edit, *shape: int) -> fx.Node:
        return edit.add_tensor("codes", torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8))

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        wider = edit.call(fxp.concat.default, [codes(edit, 3, 4, 4, 4), x], 1)
        longer = edit.call(fxp.concat.default, [wider, codes(edit, 1, 9, 4, 4)], 0)
        padded = convolution((9, 7, 1, (4, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 1, S8)
        fixed_image = padded(edit, edit.call(aten.permute.default, codes(edit, 4, 4, 1, 9), [2, 3, 0, 1]))
        total = edit.call(fxp.add.default, padded(edit, longer), fixed_image, 3, -2, 2, *S8)
        rows = edit.call(aten.permute.default, total, [0, 2, 3, 1])
        places = edit.call(aten.expand.default, edit.call(aten.unsqueeze.default, codes(edit, 4, 1, 7), 0), [4, -1, 4, -1])
        return edit.call(fxp.add.default, rows, places, 3, 2, 2, *S8)

    example = torch.randint(-128, 128, (3, 5, 4, 4), generator=generator, dtype=torch.int8)
    same_bits(fixed(example, body), [example])


def shuffled_halves(edit: Edit, x: fx.Node) -> fx.Node:
    left, right = cut(1, 0, 8)(edit, x), cut(1, 8, 16)(edit, x)
    right = convolution((8, 8, 1, (4, 4), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), 1, S8)(edit, right)
    mixed = shuffle(2, 16, 4, 4)(edit, edit.call(fxp.concat.default, [left, right], 1))
    return edit.call(fxp.max_pool2d.default, cut(1, 8, 16)(edit, mixed), [2, 2], [2, 2], [0] * 4, [1, 1])


@pytest.mark.parametrize("target", [cpu.x86_64(), VNNI], ids=lambda target: target.storage)
def test_what_only_moves_is_copied_once(target: Target) -> None:
    """Split, concatenation, shuffle and split again: one copy before the convolution, one before the pool."""
    made = plan(built((1, 16, 4, 4), shuffled_halves, dtype=torch.int8), target)
    gathers = [group for group in made.groups if group.kernel == "gather"]
    assert [group.attributes["runs"] for group in gathers] == [[[0, 8, 8]], [[number % 2, 4 + number // 2, 1] for number in range(8)]]
    assert gathers[1].inputs == ("x", "requantize_default")
    assert gathers[1].nodes == ("slice_tensor", "concat_default", "reshape_default", "transpose_int", "reshape_default_1", "slice_tensor_2")
    assert {group.kernel for group in made.groups} <= {"convert", "gather", "conv2d_loops", "conv2d_vnni", "max_pool2d"}
