"""matmul, softmax and attention in NumPy: the torch operators' bits over shapes, types and extremes, and sums that leave 32 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.reference.kernels import KERNELS
from fxpress_backends.reference.run import Interpreter
from fxpress_ir.errors import ProgramError
from fxpress_ir.ops import UNSEEN_ROWS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from several import Attention, several
from support import aten, exponentials, fxp

exact = settings(max_examples=80, deadline=None, derandomize=True)
Array = NDArray[Any]
BYTES = (np.int8, np.uint8)


def codes(random: np.random.Generator, shape: tuple[int, ...], kind: type) -> Array:
    """The ends often."""
    limits = np.iinfo(kind)
    return np.where(
        random.random(shape) < 0.3, random.choice([limits.min, limits.max], shape), random.integers(limits.min, limits.max + 1, shape)
    ).astype(kind)


def same(found: Array, expected: torch.Tensor) -> None:
    assert found.dtype == expected.numpy().dtype
    np.testing.assert_array_equal(found, expected.numpy())


@exact
@given(st.integers(0, 2**31), st.lists(st.integers(1, 3), max_size=2), st.sampled_from(BYTES), st.sampled_from(BYTES), st.booleans())
def test_matmul(seed: int, lead: list[int], left: type, right: type, spread: bool) -> None:
    random = np.random.default_rng(seed)
    rows, terms, columns = random.integers(1, (5, 60, 6))
    x = codes(random, (*([1] * len(lead) if spread else lead), rows, terms), left)
    y = codes(random, (*lead, terms, columns), right)
    same(KERNELS["fxp.matmul"](x, y), fxp.matmul(torch.from_numpy(x), torch.from_numpy(y)))


@exact
@given(st.integers(0, 2**31), st.sampled_from([8, 15]), st.sampled_from([0.3, 0.05, 0.002]), st.sampled_from([1, 3, 100, 4096]))
def test_softmax(seed: int, bits: int, scale: float, keys: int) -> None:
    x, table = codes(np.random.default_rng(seed), (2, 3, keys), np.int8), exponentials(1 << 14, scale).int()
    x[0] = seed % 5  # rows of equal values, some of which sum to powers of two
    same(KERNELS["fxp.softmax"](x, table.numpy(), bits), fxp.softmax(torch.from_numpy(x), table, bits))


@exact
@given(
    *(st.integers(0, 2**31), st.lists(st.integers(1, 3), max_size=2), st.tuples(*[st.sampled_from(BYTES)] * 3), st.booleans()),
    *(st.booleans(), st.sampled_from(UNSEEN_ROWS)),
)
def test_attention(seed: int, lead: list[int], kinds: Any, causal: bool, wide: bool, unseen: str) -> None:
    """Masks and biases of every shape that goes into the scores, and none."""
    random = np.random.default_rng(seed)
    queries, keys, depth, width = random.integers(1, (9, 40, 20, 9))
    shapes = ((*lead, queries, depth), (*lead, keys, depth), (*lead, keys, width))
    operands: list[Array | None] = [codes(random, shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    full = (*lead, queries, keys)
    shape = tuple(size if random.random() < 0.6 else 1 for size in full)[random.integers(0, len(full)) :]
    operands += [random.random(shape) < random.choice([0.1, 0.6]) if random.random() < 0.6 else None]
    operands += [random.integers(-(2**17), 2**17, shape).astype(np.int32) if random.random() < 0.5 else None]
    b, ob = random.integers(1, 2**15, 2).tolist()
    limits: Any = (-32768, 32767, torch.int16) if wide else (-128, 127, torch.int8)
    numbers = Attention(b, int(random.integers(1, 17)), ob, int(random.integers(1, 16)), *limits[:2], causal, limits[2]).numbers
    table = exponentials(255).to(torch.uint8)
    found = KERNELS["fxp.attention"](*operands, table.numpy(), *numbers[:-1], str(limits[2]).removeprefix("torch."), unseen)
    same(found, fxp.attention(*[None if array is None else torch.from_numpy(array) for array in operands], table, *numbers, unseen))


@pytest.mark.parametrize(("value", "keys"), [(-128, 65536), (127, 65536), (255, 33000)])
def test_the_largest_sums(value: int, keys: int) -> None:
    """All keys alike: 255 * value * keys is close to the end of 32 bits, and the mean is the value."""
    q, k = np.full((1, 2, 4), 127, np.int8), np.full((1, keys, 4), -128, np.int8)
    v, table = np.full((1, keys, 1), value, np.uint8 if value > 127 else np.int8), exponentials(255).to(torch.uint8)
    numbers = Attention(ob=2, oc=8, qmin=-32768, qmax=32767, dtype=torch.int16).numbers
    found = KERNELS["fxp.attention"](q, k, v, None, None, table.numpy(), *numbers[:-1], "int16")
    same(found, fxp.attention(*map(torch.from_numpy, (q, k, v)), None, None, table, *numbers))
    assert np.unique(found).tolist() == [2 * value]


def test_sums_beyond_int32_are_errors() -> None:
    q, k = np.zeros((1, 1), np.int8), np.zeros((40_000, 1), np.int8)
    numbers = (*Attention().numbers[:-1], "int8")
    with pytest.raises(ProgramError, match="an accumulator leaves int32"):
        KERNELS["fxp.attention"](q, k, np.full((40_000, 1), 255, np.uint8), None, None, exponentials(255).numpy(), *numbers)
    with pytest.raises(ProgramError, match="an accumulator leaves int32"):
        KERNELS["fxp.matmul"](np.full((1, 33_026), 255, np.uint8), np.full((33_026, 1), 255, np.uint8))


def test_masks_of_a_moved_constant() -> None:
    """A mask that is cut to the length of the input."""
    mask = torch.rand(9, 9, generator=torch.Generator().manual_seed(2)) < 0.7

    def body(edit: Any, x: Any) -> Any:
        length, kept = edit.call(aten.sym_size.int, x, 1), edit.add_tensor("mask", mask)
        for dimension in (0, 1):
            kept = edit.call(aten.slice.Tensor, kept, dimension, 0, length)
        return Attention(causal=True).call(edit, {**dict.fromkeys("qkv", x), "mask": kept})

    program = several([(("batch", "length", 8), torch.int8)], body, {"length": 9})
    for batch, length in ((1, 1), (3, 4), (2, 9)):
        x = codes(np.random.default_rng(length), (batch, length, 8), np.int8)
        same(Interpreter.of(program).run([x])[0], program.run(torch.from_numpy(x))[0])
