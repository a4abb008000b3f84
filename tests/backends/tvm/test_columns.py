"""A slice of channels is read where it lies: the bits of the copy, from any vector on; what begins elsewhere is copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit
from support import aten, built, exponentials, fxp, multipliers
from torch import fx
from tvm_cases import S8, U8

ROWS, IMAGE = (5, 80), (80, 3, 4)
Reader = Callable[[Edit, list[fx.Node]], fx.Node]


def looked_up(edit: Edit, parts: list[fx.Node]) -> fx.Node:
    values = torch.randint(-128, 128, (1, 256), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    return edit.call(fxp.lut.default, parts[0], edit.add_tensor("table", values), 1)


def multiplied(edit: Edit, parts: list[fx.Node]) -> fx.Node:
    acc = edit.call(fxp.multiply.default, *parts[:2])
    return edit.call(fxp.requantize.default, acc, edit.add_tensor("b", multipliers([77])), 12, *S8[:2], 1, S8[2])


def added(edit: Edit, parts: list[fx.Node]) -> fx.Node:
    return edit.call(fxp.add.default, parts[1], parts[0], 3, 5, 3, *U8)


def rescaled(edit: Edit, parts: list[fx.Node]) -> fx.Node:
    return edit.call(fxp.requantize.default, parts[1], edit.add_tensor("b", multipliers([3001])), 5, -32768, 32767, 1, torch.int16)


def curved(edit: Edit, parts: list[fx.Node]) -> fx.Node:
    knots = torch.randint(-32768, 32768, (1, 513), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    return edit.call(fxp.lut16.default, parts[1], edit.add_tensor("knots", knots), 1)


READERS: dict[str, tuple[Reader, torch.dtype]] = {
    "lut": (looked_up, torch.int8),
    "multiply": (multiplied, torch.int8),
    "add": (added, torch.uint8),
    "requantize": (rescaled, torch.int8),
    "lut16": (curved, torch.int16),
}


def sliced(reader: Reader, axis: int, *runs: tuple[int, int]) -> Callable[[Edit, fx.Node], fx.Node]:
    """A reader of slices; a maximum over single pixels in front of them makes four dimensions an image."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        whole = edit.call(fxp.max_pool2d.default, x, [1, 1], [1, 1], [0] * 4, [1, 1]) if axis == 1 else x
        return reader(edit, [edit.call(aten.slice.Tensor, whole, axis, *run) for run in runs])

    return body


def heads_of(edit: Edit, x: fx.Node, length: int) -> fx.Node:
    return edit.call(aten.transpose.int, edit.call(aten.view.default, x, [-1, length, 2, 16]), 1, 2)


def attended(edit: Edit, x: fx.Node) -> fx.Node:
    """Queries of the first positions alone, keys and values of two runs of channels."""
    channels = [edit.call(aten.slice.Tensor, x, 2, *run) for run in ((0, 32), (32, 64), (48, 80))]
    query, key, value = edit.call(aten.slice.Tensor, channels[0], 1, 0, 3), *channels[1:]
    heads = heads_of(edit, query, 3), heads_of(edit, key, 5), heads_of(edit, value, 5)
    table = edit.add_tensor("table", exponentials(255).to(torch.uint8))
    return edit.call(fxp.attention.default, *heads, None, None, table, 80, 15, 160, 15, -128, 127, False, torch.int8)


RUNS = (((48, 72), (16, 40)), ((3, 40), (32, 69)))
"""From vectors on, and from between them."""


def cases() -> list[tuple[Sequence[int], torch.dtype, Any]]:
    readers = [
        (shape, dtype, sliced(reader, axis, *RUNS[0])) for reader, dtype in READERS.values() for shape, axis in ((ROWS, 2), (IMAGE, 1))
    ]
    wide = (ROWS, torch.int8, sliced(looked_up, 2, (16, 80)))
    return [*readers, wide, (ROWS, torch.int8, sliced(multiplied, 2, *RUNS[1])), (ROWS, torch.int8, attended)]


def test_every_reader_gives_the_bits_of_a_copy(side_by_side: Any, same_bits: Any) -> None:
    chosen = cases()
    program = side_by_side(chosen)
    generator = torch.Generator().manual_seed(0)

    def inputs(batch: int) -> list[torch.Tensor]:
        limits = [(torch.iinfo(dtype), dtype, shape) for shape, dtype, _ in chosen]
        return [torch.randint(i.min, i.max + 1, (batch, *shape), generator=generator).to(dtype) for i, dtype, shape in limits]

    same_bits(program, inputs(1), inputs(3))


PLAIN = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3"))


@pytest.mark.parametrize("kernel", READERS)
def test_a_run_that_begins_with_a_vector_is_not_copied(kernel: str) -> None:
    reader, dtype = READERS[kernel]
    for shape, axis in ((ROWS, 2), (IMAGE, 1)):
        groups = plan(built((1, *shape), sliced(reader, axis, (0, 64), (16, 80)), dtype=dtype), PLAIN).groups
        assert "gather" not in [group.kernel for group in groups]
        (spans,) = [group.attributes["spans"] for group in groups if "spans" in group.attributes]
        assert spans in ([[0, 64]], [[16, 64]], [[0, 64], [16, 64]], [[16, 64], [0, 64]])


def test_a_run_between_vectors_is_copied() -> None:
    groups = plan(built((1, *ROWS), sliced(multiplied, 2, (3, 67), (8, 72)), dtype=torch.int8), PLAIN).groups
    assert [group.kernel for group in groups].count("gather") == 2
    assert all("spans" not in group.attributes for group in groups)


def test_a_part_of_the_positions_is_copied() -> None:
    groups = plan(built((1, *ROWS), attended, dtype=torch.int8), PLAIN).groups
    (attention,) = [group for group in groups if group.kernel.startswith("attention")]
    assert [group.kernel for group in groups].count("gather") == 1
    assert attention.attributes["heads"][:3] == [[0, 0, 0], [2, 32, 16], [2, 48, 16]]
