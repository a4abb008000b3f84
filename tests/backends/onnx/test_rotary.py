"""Rotary embeddings over every width of result; tables that are moved, sliced by a size and expanded among them."""

from __future__ import annotations

from typing import Any

import torch
from fxpress_backends.onnx.integer import F1
from fxpress_backends.onnx.lower import emit
from fxpress_ir import Edit
from hypothesis import given
from hypothesis import strategies as st
from onnx_cases import Check, exact, extreme, seeds
from support import aten, attending_net, built, fxp, turned_by_length
from torch import fx

RESULTS = st.sampled_from([(-128, 127, torch.int8), (-3, 90, torch.int8), (0, 255, torch.uint8), (-32768, 32767, torch.int16)])


@exact
@given(
    seeds,
    st.sampled_from([(4,), (3, 10), (2, 3, 6), (3, 2, 4, 2)]),
    st.sampled_from([torch.int8, torch.int16]),
    st.integers(0, 3),
    st.integers(1, 15),
    RESULTS,
)
def test_rotary(same_bits: Check, seed: int, shape: tuple[int, ...], dtype: torch.dtype, spread: int, c: int, limits: Any) -> None:
    """Tables of the whole shape, of one row, of one column, or computed; of all of int16 where the operand is a byte."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (shape, shape[-1:], (*shape[:-1], 1), (1, *shape))[spread]

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        tables = []
        for name in ("cosine", "sine"):
            table = extreme(generator, sizes, torch.int16)
            table = table if dtype == torch.int8 else table.clamp(-16384, 16383)
            tables.append(edit.add_tensor(name, table))
        return edit.call(fxp.rotary.default, x, *tables, c, *limits)

    same_bits(built((1, *shape), body, dtype=dtype), extreme(generator, (4, *shape), dtype))


def test_ties_go_to_even(same_bits: Check) -> None:
    """c = 1 makes a tie of every odd sum."""
    tables = {"cosine": torch.tensor([1, 3], dtype=torch.int16), "sine": torch.tensor([1, -1], dtype=torch.int16)}

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.rotary.default, x, *(edit.add_tensor(*table) for table in tables.items()), 1, -128, 127, torch.int8)

    x = torch.cartesian_prod(torch.arange(-9, 10), torch.arange(-9, 10)).to(torch.int8)
    same_bits(built((1, 2), body, dtype=torch.int8), x)


def test_a_computed_table(same_bits: Check) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        b = edit.add_tensor("b", torch.tensor([127], dtype=torch.int32))
        table = edit.call(fxp.requantize.default, x, b, 1, -16384, 16384, 1, torch.int16)
        return edit.call(fxp.rotary.default, x, table, table, 10, -128, 127, torch.int8)

    same_bits(built((1, 3, 4), body, dtype=torch.int8), extreme(torch.Generator().manual_seed(0), (7, 3, 4), torch.int8))


def test_a_net_of_transformers(same_bits: Check) -> None:
    for batch in (1, 3):
        same_bits(attending_net(), torch.randn(batch, 6, 16, generator=torch.Generator().manual_seed(batch)))


def test_tables_sliced_by_a_size_of_the_input(same_bits: Check) -> None:
    program = turned_by_length()
    for batch, length in ((1, 1), (3, 2), (2, 9)):
        same_bits(program, extreme(torch.Generator().manual_seed(length), (batch, length, 6), torch.int8))
    nodes = list(emit(program, F1).graph)
    assert [node.op_type for node in nodes].count("Shape") == 2


def test_constants_of_every_type_are_moved(same_bits: Check) -> None:
    """A moved constant is an operand like any other: bytes of both signs, 16 and 32 bits."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        total = x
        for dtype in (torch.int8, torch.uint8, torch.int16):
            limits = torch.iinfo(dtype)
            values = torch.tensor([[limits.min], [limits.max], [0], [7]]).to(dtype)
            moved = edit.call(aten.transpose.int, edit.add_tensor("moved", values), 0, 1)
            spread = edit.call(aten.expand.default, edit.call(aten.unsqueeze.default, moved, 0), [1, 3, 4])
            total = edit.call(fxp.add.default, total, spread, 301, 7, 9, -32768, 32767, torch.int16)
        return total

    same_bits(built((1, 3, 4), body, dtype=torch.int8), extreme(torch.Generator().manual_seed(1), (5, 3, 4), torch.int8))
