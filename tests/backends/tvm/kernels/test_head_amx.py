"""Attention in AMX tiles gives the operator's bits: heads of one to four tiles, lengths that fill none, masks and extremes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.physical import Group
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program
from several import Attention, Input, several
from support import fxp
from torch import Tensor, fx
from tvm_cases import Check, requantized

AMX = cpu.levels(())[-1]
S8, U8 = torch.int8, torch.uint8
Sizes = tuple[int, int, int, int]

CASES: tuple[tuple[Sizes, tuple[torch.dtype, ...], Attention, tuple[str, ...]], ...] = (
    # queries, keys, width of keys, width of values; types of q, k, v; numbers; what is beside them
    ((5, 7, 64, 16), (S8, S8, S8), Attention(), ()),
    ((17, 70, 68, 33), (U8, S8, U8), Attention(b=32767, c=3, ob=32767, oc=9, qmin=-7, qmax=100), ("mask",)),
    ((33, 133, 17, 20), (S8, S8, U8), Attention(b=200, ob=129, qmin=0, qmax=255, dtype=U8, causal=True), ("bias",)),
    ((64, 64, 208, 40), (U8, S8, S8), Attention(b=60, ob=2, oc=1, qmin=-32768, qmax=32767, dtype=torch.int16), ()),
)


def attending(batch: int | str = "batch") -> Program:
    inputs: list[Input] = []
    for (queries, keys, depth, width), types, _, beside in CASES:
        shapes = [((2, queries, depth), types[0]), ((2, keys, depth), types[1]), ((2, keys, width), types[2])]
        shapes += [((1, queries, keys), {"mask": torch.bool, "bias": torch.int32}[name]) for name in beside]
        inputs += [((batch, *shape), dtype) for shape, dtype in shapes]

    def body(edit: Edit, *xs: fx.Node) -> list[fx.Node]:
        left, found = list(xs), []
        for _, _, numbers, beside in CASES:
            operands = {name: left.pop(0) for name in ("q", "k", "v", *beside)}
            if "bias" in operands:
                one = edit.add_tensor("one", torch.ones(1, dtype=torch.int32))
                operands["bias"] = edit.call(fxp.requantize.default, operands["bias"], one, 1, -30000, 30000, -1, torch.int32)
            found.append(numbers.call(edit, operands))
        return found

    return several(inputs, body)


def extreme(generator: torch.Generator, shape: Any, dtype: torch.dtype) -> Tensor:
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.7
    low, high = (-(2**17), 2**17) if dtype == torch.int32 else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    choice, anything = torch.randint(0, 3, shape, generator=generator), torch.randint(low, high + 1, shape, generator=generator)
    return torch.where(choice == 0, low, torch.where(choice == 1, high, anything)).to(dtype)


def test_bits(same_bits: Check) -> None:
    program, generator = attending(), torch.Generator().manual_seed(5)
    values = [node.meta["val"] for node in program.placeholders()]
    same_bits(program, *([extreme(generator, (batch, *x.shape[1:]), x.dtype) for x in values] for batch in (1, 2)))


def test_lengths_that_stay_symbolic(same_bits: Check) -> None:
    """One row, less than a tile, several tiles: a linear layer gives q, k and v to all heads."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(3)
        weight = torch.randint(-127, 128, (32, 80), generator=generator, dtype=torch.int8)
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("weight", weight), None)
        narrow = requantized(edit, acc, torch.tensor([90], dtype=torch.int32), 16, (-128, 127, S8), -1)
        return Attention().call(edit, dict.fromkeys("qkv", narrow))

    program, generator = several([(("batch", "length", 80), S8)], body, {"length": 64}), torch.Generator().manual_seed(7)
    assert [group.kernel for group in plan(program, AMX).groups if "view" not in group.kernel][1:3] == ["linear_amx", "attention_amx"]
    same_bits(program, *([extreme(generator, (2, length, 80), S8)] for length in (2, 9, 16, 53)))


def groups_of(program: Program) -> list[Group]:
    return [group for group in plan(program, AMX).groups if group.kernel.startswith("attention")]


def test_16_queries_are_a_tile() -> None:
    assert [(group.kernel, group.attributes["tile"], group.why) for group in groups_of(attending())] == [("attention_amx", 16, "")] * len(
        CASES
    )


@pytest.mark.parametrize(
    ("queries", "depth", "why"), [(1, 64, "tiles want 4 rows, it has 1"), (9, 5, "tiles want 16 bytes side by side, it has 8")]
)
def test_where_dot_products_stay(queries: int, depth: int, why: str) -> None:
    inputs: list[Input] = [(("batch", 2, length, depth), S8) for length in (queries, 30, 30)]
    program = several(inputs, lambda edit, q, k, v: [Attention().call(edit, {"q": q, "k": k, "v": v})])
    assert [(group.kernel, group.why) for group in groups_of(program)] == [("attention_vnni", why)]
