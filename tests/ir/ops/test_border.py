"""Quantise and dequantise: IEEE float32 division and half-even rounding, bit for bit; straight-through gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fxpress_ir.errors import ProgramError
from fxpress_ir.ops import quantize_channels
from hypothesis import given, settings
from hypothesis import strategies as st
from support import built, fxp
from torch import Tensor

RANGES = ((-128, 127, torch.int8), (0, 255, torch.uint8), (-127, 127, torch.int8), (0, 6, torch.uint8), (-32768, 32767, torch.int32))


def quantized(x: np.ndarray, scale: float, qmin: int, qmax: int) -> np.ndarray:
    """The definition, in NumPy's IEEE float32."""
    return np.clip(np.rint(x / np.float32(scale)), qmin, qmax)


def around_ties(scale: float, qmin: int, qmax: int) -> np.ndarray:
    """The floats nearest to each tie of the range, their two neighbours, and values far outside."""
    ties = ((np.arange(max(qmin, -300) - 2, min(qmax, 300) + 2) + 0.5) * scale).astype(np.float32)
    far = np.asarray([0.0, -0.0, 1e30, -1e30, np.inf, -np.inf], np.float32)
    return np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf)), far])


@given(st.floats(1e-6, 1e3), st.sampled_from(RANGES), st.integers(0, 2**30))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_quantize_is_ieee_division_rounded_half_to_even(scale: float, limits: tuple[int, int, torch.dtype], seed: int) -> None:
    qmin, qmax, dtype = limits
    noise = np.random.default_rng(seed).normal(0, 60 * scale, 200).astype(np.float32)
    x = np.concatenate([around_ties(scale, qmin, qmax), noise])
    q = fxp.quantize(torch.from_numpy(x), scale, qmin, qmax, dtype)
    assert q.dtype == dtype
    assert np.array_equal(q.numpy(), quantized(x, scale, qmin, qmax))


def test_a_product_with_the_reciprocal_gives_other_bits() -> None:
    scale = 0.03
    x = around_ties(scale, -128, 127)
    by_product = np.clip(np.rint(x * (np.float32(1) / np.float32(scale))), -128, 127)
    q = fxp.quantize(torch.from_numpy(x), scale, -128, 127, torch.int8).numpy()
    assert np.array_equal(q, quantized(x, scale, -128, 127))
    assert (by_product != q).any()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_dequantize_is_one_float32_product(dtype: torch.dtype) -> None:
    values = range(-128, 128) if dtype == torch.int8 else range(256) if dtype == torch.uint8 else range(-32768, 32768, 7)
    q = torch.tensor(list(values), dtype=torch.int32).to(dtype)
    x = fxp.dequantize(q, 0.0123)
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), q.numpy().astype(np.float32) * np.float32(0.0123))


@pytest.mark.parametrize("limits", RANGES)
def test_fake_quantize_is_quantize_and_dequantize(limits: tuple[int, int, torch.dtype]) -> None:
    qmin, qmax, dtype = limits
    x = torch.from_numpy(around_ties(0.07, qmin, qmax))
    assert torch.equal(fxp.fake_quantize(x, 0.07, qmin, qmax), fxp.dequantize(fxp.quantize(x, 0.07, qmin, qmax, dtype), 0.07))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_each_channel_has_its_scale(axis: int) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    scales = torch.linspace(0.003, 0.05, x.shape[axis], dtype=torch.float64)
    y, q = fxp.fake_quantize_channels(x, scales, axis, -127, 127), quantize_channels(x, scales, axis, -127, 127)
    for channel, scale in enumerate(scales.tolist()):
        assert torch.equal(y.select(axis, channel), fxp.fake_quantize(x.select(axis, channel), scale, -127, 127))
        assert np.array_equal(q.select(axis, channel).numpy(), quantized(x.select(axis, channel).numpy(), scale, -127, 127))


def gradient(y: Tensor, x: Tensor) -> Tensor:
    """Of sum(y * (1, 2, 3, ...)), so that each element's share shows."""
    (found,) = torch.autograd.grad((y.flatten() * torch.arange(1.0, y.numel() + 1)).sum(), x)
    return found


def test_the_gradient_passes_straight_through_inside_the_range_and_stops_outside() -> None:
    # 12.74 rounds to 127, the last step inside; 12.76 rounds to 128
    x = torch.tensor([-12.86, -12.84, 0.0, 0.05, 12.74, 12.76, 100.0], requires_grad=True)
    assert gradient(fxp.fake_quantize(x, 0.1, -128, 127), x).tolist() == [0, 2, 3, 4, 5, 0, 0]


def test_the_gradient_of_channels_stops_by_their_own_scales() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    scale = torch.tensor([0.01, 0.1])
    assert gradient(fxp.fake_quantize_channels(x, scale, 0, -127, 127), x).tolist() == [[1, 0], [3, 4]]


def test_no_operator_writes_to_its_input() -> None:
    x = torch.tensor([-1.0, 1.0])
    fxp.quantize(x, 0.001, -128, 127, torch.int8)
    fxp.fake_quantize(x, 0.001, -128, 127)
    fxp.fake_quantize_channels(x, torch.tensor([0.001, 0.001]), 0, -128, 127)
    assert x.tolist() == [-1.0, 1.0]


def test_scales_that_are_not_one_a_channel_are_refused() -> None:
    def body(edit, x):  # type: ignore[no-untyped-def]
        return edit.call(fxp.fake_quantize_channels.default, x, edit.add_tensor("scale", torch.ones(4)), 1, -127, 127)

    with pytest.raises(ProgramError, match="scale has 4 values for 3 channels"):
        built((1, 3), body, stage="simulated")
