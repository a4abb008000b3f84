"""Normalised rows, alone, and with the maps that run in their registers: 8 and 16 bits, any rank, rows that fill no vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program
from support import aten, built, fxp
from torch import fx
from tvm_cases import S8, U8, Body, Check, Limits, convolution

SHORT = (-32768, 32767, torch.int16)
DTYPES = (torch.int8, torch.uint8, torch.int16)


def unit(*, centre: bool = True, epsilon: int = 1) -> Body:
    return lambda edit, x: edit.call(fxp.normalize.default, x, epsilon, centre)


def mapped(
    limits: Limits, channels: int, axis: int = -1, *, c: int = 17, of: Body | None = None, least: int = -7000, most: int = 2**20
) -> Body:
    """Gains and offsets for `channels`; of a centred row where no other operand is given."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(channels)
        g = torch.randint(least, -least + 1, (channels,), generator=generator, dtype=torch.int32)
        b = torch.randint(-most, most, (channels,), generator=generator, dtype=torch.int32)
        u = (of or unit())(edit, x)
        qmin, qmax, dtype = limits
        return edit.call(fxp.affine.default, u, edit.add_tensor("g", g), edit.add_tensor("b", b), c, qmin, qmax, axis, dtype)

    return body


def test_normalize(same_on_extremes: Check) -> None:
    """Fewer values than a vector, one more, whole vectors; images, whose rows are no channels; every rank and type."""
    shapes = ((2,), (17,), (64,), (3, 5), (2, 48), (2, 3, 19), (17, 1, 4), (2, 3, 2, 7))
    turns = [*DTYPES, *DTYPES, torch.int8, torch.int16]
    cases = [
        (shape, dtype, unit(centre=number % 2 == 0, epsilon=1 + 900 * number))
        for number, (shape, dtype) in enumerate(zip(shapes, turns, strict=True))
    ]
    same_on_extremes([*cases, ((2, 3, 19), torch.int8, unit(centre=False)), ((19,), torch.uint8, unit(centre=False))])


def test_maps_in_the_registers_of_a_row(same_on_extremes: Check) -> None:
    """A gain for each value or one for all, every width of result, images with a halo for the convolution that reads them."""

    def convolved(edit: Edit, x: fx.Node) -> fx.Node:
        case = (20, 9, 1, (4, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
        return convolution(case, 1, S8)(edit, mapped(S8, 8)(edit, x))

    cases: Sequence[tuple[tuple[int, ...], Body]] = (
        ((19,), mapped(S8, 19)),
        ((3, 19), mapped(U8, 1, 1)),
        ((3, 40), mapped(SHORT, 40, 2, c=12)),
        ((2, 3, 6), mapped((-7, 100, torch.int8), 6, 3)),
        ((20, 4, 8), convolved),
        ((5, 33), mapped(S8, 33, of=unit(centre=False), c=16)),
        ((2, 3, 2, 7), mapped(S8, 7)),
    )
    same_on_extremes([(shape, DTYPES[number % 3], body) for number, (shape, body) in enumerate(cases)])


def test_maps_of_other_values(same_on_extremes: Check) -> None:
    """Of what was not normalised; of rows along another dimension; of rows and images that have other readers."""

    def given(edit: Edit, x: fx.Node) -> fx.Node:
        return x

    def shared(edit: Edit, x: fx.Node) -> fx.Node:
        u = unit()(edit, x)
        first, second = (mapped(limits, 20, c=16, of=lambda edit, x: u)(edit, x) for limits in (S8, SHORT))
        return edit.call(fxp.add.default, first, second, 3000, 7, 6, *SHORT)

    def viewed(edit: Edit, x: fx.Node) -> fx.Node:
        u = unit()(edit, x)
        turned = edit.call(aten.transpose.int, mapped(S8, 20, c=16, of=lambda edit, x: u)(edit, x), 1, 2)
        second = mapped(S8, 6, c=16, of=lambda edit, x: edit.call(aten.transpose.int, u, 1, 2))(edit, x)
        return edit.call(fxp.add.default, turned, second, 3, 5, 3, *S8)

    cases: Sequence[tuple[tuple[int, ...], Body]] = (
        ((19,), mapped(S8, 19, of=given, c=5)),
        ((17, 3, 5), mapped(U8, 17, 1, of=given, c=7)),
        ((17, 3, 5), mapped(SHORT, 3, 2, of=given, c=3)),
        ((17, 3, 5), mapped(S8, 5, 3, of=given, c=3)),
        ((4, 6), mapped(S8, 1, 0, of=given, c=10)),
        ((4, 6), mapped(S8, 4, 1)),
        ((17, 3, 5), mapped(S8, 17, 1)),
        ((6, 20), shared),
        ((6, 20), viewed),
        ((2, 20), lambda edit, x: edit.call(aten.view.default, unit()(edit, x), [-1, 40])),
    )
    same_on_extremes([(shape, DTYPES[number % 3], body) for number, (shape, body) in enumerate(cases)])


def test_long_rows_and_every_power_of_four(same_bits: Check, side_by_side: Check) -> None:
    """4096 values, where sums of 16-bit squares need 64 bits; two values apart by every power of two."""

    def rows(dtype: torch.dtype) -> torch.Tensor:
        limits = torch.iinfo(dtype)
        one = torch.full((4096,), limits.min).index_fill_(0, torch.tensor([7]), limits.max)
        half, equal = torch.tensor([limits.min, limits.max]).repeat(2048), torch.full((4096,), limits.max)
        return torch.stack([one, one.flip(0), half, equal, 0 * one, half // 3] * 3).to(dtype)

    program = side_by_side(
        [((4096,), dtype, unit(centre=centre)) for dtype in DTYPES for centre in (True, False)] + [((2,), torch.int16, unit())]
    )
    apart = torch.tensor([[1 << k >> 1, -(1 << k >> 1)] for k in range(16)] + [[0, 0], [-32768, 32767]]).to(torch.int16)
    same_bits(program, [*(rows(dtype) for dtype in DTYPES for _ in range(2)), apart])


def two(edit: Edit, x: fx.Node) -> fx.Node:
    u = unit()(edit, x)
    return edit.call(fxp.add.default, *(mapped(S8, 20, of=lambda edit, x: u)(edit, x) for _ in range(2)), 3, 5, 3, *S8)


def kernels(body: Body, target: Target) -> list[str]:
    return [group.kernel for group in plan(built((1, 3, 20), body, dtype=torch.int8), target).groups]


def test_a_map_is_fused_where_all_readers_are_maps_along_the_rows(target: Target) -> None:
    def mixed(edit: Edit, x: fx.Node) -> fx.Node:
        u = unit()(edit, x)
        first, second = (mapped(S8, size, axis, of=lambda edit, x: u)(edit, x) for size, axis in ((20, 2), (3, 1)))
        return edit.call(fxp.add.default, first, second, 3, 5, 3, *S8)

    assert kernels(mapped(S8, 20), target) == ["convert", "normalize", "convert"]
    assert kernels(mapped(S8, 1, 1), target) == ["convert", "normalize", "convert"]
    assert kernels(two, target) == ["convert", "normalize", "normalize", "add", "convert"]
    assert kernels(mixed, target) == ["convert", "normalize", "affine", "affine", "add", "convert"]
    assert kernels(unit(), target) == ["convert", "normalize", "convert"]


def test_a_plan_names_each_node_once(target: Target) -> None:
    program = built((1, 3, 20), two, dtype=torch.int8)
    covered = [name for group in plan(program, target).groups for name in group.nodes if group.kernel != "convert"]
    assert sorted(covered) == sorted(node.name for node in program.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("role", ["g", "b"])
def test_gains_along_the_batch_are_refused(role: str, fixed: Callable[..., Program], targets: Mapping[str, Target]) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        parts = [edit.add_tensor(name, torch.ones(2 if name == role else 1, dtype=torch.int32)) for name in ("g", "b")]
        return edit.call(fxp.affine.default, x, *parts, 4, -128, 127, 0, torch.int8)

    (refusal,) = TVM.legalize(fixed(torch.zeros(2, 5, dtype=torch.int8), body), targets["tvm:native"])
    assert refusal.reason == f"its {role} runs along dimension 0"
