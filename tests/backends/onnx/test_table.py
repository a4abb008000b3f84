"""Lookups: every byte, one table or one a channel, along any axis and from either type to either type."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Edit
from hypothesis import given
from hypothesis import strategies as st
from onnx_cases import Check, bytes_, exact, extreme, seeds
from support import built, fxp
from torch import fx


@exact
@given(seeds, bytes_, bytes_, st.sampled_from([(2,), (6, 4), (5, 3), (3, 2, 7), (4, 8, 2), (1, 1, 1)]), st.booleans(), st.integers(-3, 2))
def test_lut(same_bits: Check, seed: int, dtype: torch.dtype, result: torch.dtype, shape: tuple[int, ...], many: bool, axis: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    axis = axis % len(shape) + 1
    limits = torch.iinfo(result)
    table = torch.randint(limits.min, limits.max + 1, (shape[axis - 1] if many else 1, 256), generator=generator, dtype=result)
    place = axis - 1 - len(shape) if seed % 2 else axis
    program = built((1, *shape), lambda edit, x: edit.call(fxp.lut.default, x, edit.add_tensor("table", table), place), dtype=dtype)
    same_bits(program, extreme(generator, (3, *shape), dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_every_byte(same_bits: Check, dtype: torch.dtype) -> None:
    table = torch.stack([torch.arange(256) * step % 256 - 128 for step in (1, 3, 7)]).to(torch.int8)
    x = torch.arange(256).to(dtype).expand(2, 3, 256).contiguous()
    for tables in (table, table[:1]):
        same_bits(built((1, 3, 256), lambda edit, x, t=tables: edit.call(fxp.lut.default, x, edit.add_tensor("t", t), 1), dtype=dtype), x)


@exact
@given(seeds, st.sampled_from([(2,), (6, 4), (3, 2, 7), (1, 1, 1)]), st.booleans(), st.integers(-3, 2), st.booleans())
def test_lut16(same_bits: Check, seed: int, shape: tuple[int, ...], many: bool, axis: int, steep: bool) -> None:
    """Any knots, and those whose neighbours lie furthest apart."""
    generator = torch.Generator().manual_seed(seed)
    axis = axis % len(shape) + 1
    rows = shape[axis - 1] if many else 1
    table = (
        torch.tensor([-32768, 32767] * 257)[:513].expand(rows, 513)
        if steep
        else torch.randint(-32768, 32768, (rows, 513), generator=generator)
    )
    place = axis - 1 - len(shape) if seed % 2 else axis

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.lut16.default, x, edit.add_tensor("table", table.to(torch.int16).contiguous()), place)

    same_bits(built((1, *shape), body, dtype=torch.int16), extreme(generator, (40, *shape), torch.int16))
