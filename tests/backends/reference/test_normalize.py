"""fxp.normalize and fxp.affine in NumPy: the torch operators' bits over shapes and extremes, and the rational that an affine map rounds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from fxpress_backends.reference.kernels import KERNELS
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fxp

exact = settings(max_examples=80, deadline=None, derandomize=True)
KINDS = st.sampled_from([np.int8, np.uint8, np.int16])
RESULTS = ((-128, 127, torch.int8), (3, 200, torch.uint8), (-32768, 32767, torch.int16))


def codes(seed: int, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """A third of them an end of the type."""
    random, limits = np.random.default_rng(seed), np.iinfo(kind)
    ends = random.choice([limits.min, limits.max], shape)
    return np.where(random.random(shape) < 1 / 3, ends, random.integers(limits.min, limits.max + 1, shape)).astype(kind)


@exact
@given(
    st.integers(0, 2**31),
    st.sampled_from([(2,), (6, 5), (2, 3, 33), (2, 1, 3, 8), (1, 300)]),
    KINDS,
    st.one_of(st.integers(1, 99), st.integers(1, 2**61)),
    st.booleans(),
)
def test_normalize(seed: int, shape: tuple[int, ...], kind: type, epsilon: int, centre: bool) -> None:
    x = codes(seed, shape, kind)
    found = KERNELS["fxp.normalize"](x, epsilon, centre)
    assert found.dtype == np.int32
    assert np.array_equal(found, fxp.normalize(torch.from_numpy(x), epsilon, centre).numpy())


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("centre", [True, False])
def test_the_longest_rows(kind: type, centre: bool) -> None:
    limits = np.iinfo(kind)
    x = np.full((4, 4096), limits.min, kind)
    x[1] = limits.max
    x[2, 17] = limits.max
    x[3, ::2] = limits.max
    assert np.array_equal(KERNELS["fxp.normalize"](x, 1, centre), fxp.normalize(torch.from_numpy(x), 1, centre).numpy())


@exact
@given(st.integers(0, 2**31), st.integers(1, 24), st.sampled_from(RESULTS), st.integers(-3, 2), st.tuples(st.booleans(), st.booleans()))
def test_affine(seed: int, c: int, limits: tuple[int, int, torch.dtype], axis: int, each: tuple[bool, bool]) -> None:
    """Gains and offsets one a channel or one for all, along any axis; sums up to 2**31 - 2**c."""
    random = np.random.default_rng(seed)
    u = random.integers(-65543, 65544, (2, 3, 4)).astype(np.int32)
    g, b = (
        random.integers(-most, most, u.shape[axis] if many else 1).astype(np.int32) for most, many in zip((8000, 2**29), each, strict=True)
    )
    qmin, qmax, dtype = limits
    found = KERNELS["fxp.affine"](u, g, b, c, qmin, qmax, axis, str(dtype).removeprefix("torch."))
    expected = fxp.affine(torch.from_numpy(u), torch.from_numpy(g), torch.from_numpy(b), c, qmin, qmax, axis, dtype).numpy()
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    gains, offsets = (np.broadcast_to(values, u.shape[axis]) for values in (g, b))
    for place, value in np.ndenumerate(u):
        exactly = Fraction(int(value) * int(gains[place[axis]]) + int(offsets[place[axis]]), 2**c)
        assert found[place] == min(max(round(exactly), qmin), qmax)
