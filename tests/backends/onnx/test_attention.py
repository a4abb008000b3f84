"""matmul, softmax and attention in ONNX: the program's bits at extremes, with every mask, at every length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX
from fxpress_ir import Program, violations
from fxpress_ir.ops import UNSEEN_ROWS
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx_cases import Check, bytes_, exact, extreme, multipliers, requantized, roundings, seeds
from several import Attention, Shape, several
from support import aten, exponentials, fxp

LEADS: tuple[tuple[tuple[int | str, ...], tuple[int, ...]], ...] = ((("batch", 3), (2, 3)), (("batch",), (3,)), ((2, 1), (2, 1)))
"""Leading dimensions in a program, and in a run of it."""


@exact
@given(st.data(), seeds, bytes_, bytes_, st.sampled_from(LEADS), roundings(), st.booleans())
def test_matmul(
    same_bits: Check, data: Any, seed: int, left: torch.dtype, right: torch.dtype, lead: Any, rounding: Any, bare: bool
) -> None:
    """Fixed sizes and dynamic ones, alone and requantised."""
    generator, (named, sizes) = torch.Generator().manual_seed(seed), lead
    rows, terms, columns = (data.draw(st.integers(1, most)) for most in (5, 40, 6))
    dynamic = data.draw(st.booleans())
    shapes: list[Shape] = (
        [(*named, "rows", "terms"), (*named, "terms", columns)] if dynamic else [(*named, rows, terms), (*named, terms, columns)]
    )
    b = multipliers(data.draw, data.draw(st.sampled_from([1, columns])))

    def body(edit: Any, x: Any, y: Any) -> Any:
        acc = edit.call(fxp.matmul.default, x, y)
        return acc if bare else requantized(edit, acc, b, rounding, -1)

    program = several(list(zip(shapes, (left, right), strict=True)), body, {"terms": 64})
    assume(not violations(program))
    same_bits(program, extreme(generator, (*sizes, rows, terms), left), extreme(generator, (*sizes, terms, columns), right))


def test_an_operand_of_a_matmul_is_spread_or_a_constant(same_bits: Check) -> None:
    generator = torch.Generator().manual_seed(5)
    constant = extreme(generator, (1, 3, 4, 5), torch.int8)

    def body(edit: Any, x: Any, y: Any) -> Any:
        first = edit.call(fxp.matmul.default, x, edit.add_tensor("keys", constant))
        scores = requantized(edit, first, torch.tensor([77], dtype=torch.int32), (10, -128, 127, torch.int8), -1)
        return edit.call(fxp.matmul.default, scores, edit.call(aten.slice.Tensor, y, 1, 0, 1))

    program = several([(("batch", 3, 2, 4), torch.uint8), (("batch", 2, 5, 6), torch.uint8)], body)
    same_bits(program, extreme(generator, (2, 3, 2, 4), torch.uint8), extreme(generator, (2, 2, 5, 6), torch.uint8))


@exact
@given(seeds, st.sampled_from([8, 15]), st.sampled_from([0.3, 0.05, 0.002]), st.sampled_from(LEADS), st.booleans(), st.integers(1, 130))
def test_softmax(same_bits: Check, seed: int, bits: int, scale: float, lead: Any, dynamic: bool, keys: int) -> None:
    generator, (named, sizes) = torch.Generator().manual_seed(seed), lead
    table = exponentials(1 << 14, scale).int()
    shape = (*named, "keys" if dynamic else keys)
    program = several(
        [(shape, torch.int8)], lambda edit, x: edit.call(fxp.softmax.default, x, edit.add_tensor("table", table), bits), {"keys": 200}
    )
    same_bits(program, extreme(generator, (*sizes, keys), torch.int8))


@pytest.mark.parametrize("bits", [8, 15])
def test_softmax_of_long_rows(bits: int, same_bits: Check) -> None:
    """Sums up to 2**30; the shift is held at 31, where a sum of a power of two rounds up."""
    table = exponentials(1 << 14).int()
    program = several(
        [(("batch", "keys"), torch.int8)],
        lambda edit, x: edit.call(fxp.softmax.default, x, edit.add_tensor("table", table), bits),
        {"keys": 2**16},
    )
    x = torch.zeros(3, 2**16, dtype=torch.int8)
    x[1, 5], x[2, ::2] = -128, -100
    same_bits(program, x)
    same_bits(program, x[:, :1024])


NUMBERS = st.sampled_from(
    [
        Attention(),
        Attention(b=5000, c=9, ob=1 << 14, oc=16),  # scores at their ends
        Attention(b=1, c=1, ob=3, oc=5, qmin=-7, qmax=100),
        Attention(b=200, ob=129, qmin=0, qmax=255, dtype=torch.uint8),
        Attention(b=60, ob=2, oc=1, qmin=-32768, qmax=32767, dtype=torch.int16),
    ]
)


def spread(draw: Any, full: tuple[int, ...], shape: Shape) -> tuple[tuple[int, ...], Shape]:
    """Some dimensions 1, some leading ones left out: sizes in a run, and in the program."""
    ones = [draw(st.booleans()) for _ in full]
    first = draw(st.integers(0, len(full) - 2))
    kept = [tuple(1 if one else size for one, size in zip(ones, sizes, strict=True))[first:] for sizes in (full, shape)]
    return kept[0], kept[1]  # type: ignore[return-value]


@exact
@given(st.data(), seeds, st.tuples(bytes_, bytes_, bytes_), st.sampled_from(LEADS), NUMBERS, st.booleans(), st.booleans())
def test_attention(same_bits: Check, data: Any, seed: int, dtypes: Any, lead: Any, numbers: Attention, causal: bool, dynamic: bool) -> None:
    """Of three and of four dimensions; lengths fixed and dynamic; masks, biases and causal order, alone and together."""
    draw, generator, (named, sizes) = data.draw, torch.Generator().manual_seed(seed), lead
    queries, keys, depth, width = (draw(st.integers(1, most)) for most in (7, 40, 20, 9))
    lengths: tuple[int | str, int | str] = ("queries", "keys") if dynamic else (queries, keys)
    operands: dict[str, tuple[Shape, torch.dtype]] = {
        "q": ((*named, lengths[0], depth), dtypes[0]),
        "k": ((*named, lengths[1], depth), dtypes[1]),
        "v": ((*named, lengths[1], width), dtypes[2]),
    }
    values = [
        extreme(generator, (*sizes, *rest), dtype)
        for rest, dtype in zip(((queries, depth), (keys, depth), (keys, width)), dtypes, strict=True)
    ]
    if draw(st.booleans()):
        shape, declared = spread(draw, (*sizes, queries, keys), (*named, *lengths))
        operands["mask"] = (declared, torch.bool)
        values.append(torch.rand(shape, generator=generator) < draw(st.sampled_from([0.05, 0.2, 0.8])))
    program = replace(numbers, causal=causal, unseen=draw(st.sampled_from(UNSEEN_ROWS))).program(operands, {"keys": 64})
    same_bits(program, *values)


@pytest.mark.parametrize("causal", [False, True])
def test_masks_and_biases_are_constants_and_moved_constants(causal: bool, same_bits: Check) -> None:
    """A bias for each head and a mask of the whole table, cut to the length of the input."""
    generator = torch.Generator().manual_seed(9)
    mask = torch.rand(11, 11, generator=generator) < 0.6
    bias = torch.randint(-9999, 9999, (1, 2, 11, 11), generator=generator, dtype=torch.int32)

    def body(edit: Any, x: Any) -> Any:
        length = edit.call(aten.sym_size.int, x, 2)
        kept = edit.add_tensor("mask", mask)
        added = edit.add_tensor("bias", bias)
        for dimension in (0, 1):
            kept = edit.call(aten.slice.Tensor, kept, dimension, 0, length)
            added = edit.call(aten.slice.Tensor, added, dimension + 2, 0, length)
        table = edit.add_tensor("table", exponentials(255).to(torch.uint8))
        return edit.call(fxp.attention.default, x, x, x, kept, added, table, *Attention(causal=causal).numbers)

    program = several([(("batch", 2, "length", 8), torch.int8)], body, {"length": 11})
    for batch, length in ((1, 1), (3, 5), (2, 11)):
        same_bits(program, extreme(generator, (batch, 2, length, 8), torch.int8))


def test_a_long_row_of_extremes(same_bits: Check) -> None:
    """The largest sums: all keys alike, v at an end; keys beyond 2**15."""
    operands: dict[str, tuple[Shape, torch.dtype]] = dict.fromkeys(("k", "v"), ((1, "keys", 4), torch.int8))
    program = Attention(ob=2, oc=1, qmin=-32768, qmax=32767, dtype=torch.int16).program(
        {"q": ((1, 2, 4), torch.int8), **operands}, {"keys": 2**16}
    )
    q = torch.full((1, 2, 4), 127, dtype=torch.int8)
    for value in (-128, 127):
        same_bits(program, q, torch.full((1, 2**16, 4), -128, dtype=torch.int8), torch.full((1, 2**16, 4), value, dtype=torch.int8))


@pytest.mark.parametrize(("terms", "right", "refused"), [(65793, torch.int8, 0), (65794, torch.int8, 1), (33026, torch.uint8, 1)])
def test_sums_over_u8_storage_that_may_leave_32_bits_are_refused(
    terms: int, right: torch.dtype, refused: int, targets: dict[str, Target], tmp_path: Path
) -> None:
    def made() -> Program:
        inputs: list[tuple[Shape, torch.dtype]] = [(("batch", 1, "terms"), torch.int8), (("batch", "terms", 1), right)]
        return several(inputs, lambda edit, x, y: edit.call(fxp.matmul.default, x, y), {"terms": terms})

    program = made()
    assert not violations(program)
    found = ONNX.legalize(program, targets["onnx:int"])
    assert len(found) == refused
    assert all("over u8 storage" in refusal.reason for refusal in found)
