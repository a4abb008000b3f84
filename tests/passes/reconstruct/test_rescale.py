"""Any scales come out with multipliers that are dyadic, near where they were and large enough for their biases."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import torch
from fxpress_ir.dyadic import MULTIPLIER_LIMIT, shift_for
from fxpress_passes import Context
from fxpress_passes.reconstruct.layers import Grid, layers_of
from fxpress_passes.reconstruct.rescale import HALF, are_free, snapped, sums_fit
from hypothesis import given, settings
from hypothesis import strategies as st
from low_bits import every_kind, simulated

BYTES, SHORTS = Grid(0.03, -128, 127), Grid(0.0007, -32767, 32766)
_scales = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(_scales, st.sampled_from([BYTES, SHORTS]), st.sampled_from([BYTES, SHORTS]), st.floats(0, 100))
def test_multipliers_are_whole_numbers_over_a_power_of_two(scales: list[float], source: Grid, target: Grid, bias: float) -> None:
    given_scales = torch.tensor(scales, dtype=torch.float64)
    found = snapped(given_scales, source, target, torch.full_like(given_scales, bias))
    real = found * source.scale / target.scale
    c = shift_for(float(real.max()), limit=15 if target.is_short else 16)
    b = real * 2.0**c
    assert bool(((b - b.round()).abs() <= 1e-9 * b).all())
    assert bool((b.round() >= 1).all())
    assert bool((b.round() < MULTIPLIER_LIMIT).all())
    wanted = (given_scales * source.scale / target.scale).clamp_max((MULTIPLIER_LIMIT - 1) / 2)
    least = bias / (target.scale * HALF)
    for before, after in zip(wanted.tolist(), b.round().tolist(), strict=True):
        assert Fraction(after) >= Fraction(least) * 2**c
        assert abs(after - max(before, least) * 2**c) <= 1


def test_scales_as_they_were_placed_are_free_and_others_are_not() -> None:
    program = simulated(every_kind(), 3)
    for layer in layers_of(program, Context()):
        scales = program.tensors[layer.scale]
        assert are_free(layer, scales)
        assert not are_free(replace(layer, source=None), scales)
        assert not are_free(replace(layer, target=None), scales)
    assert not are_free(layer, scales * (1 + 1e-4))


def test_sums_over_short_inputs_stay_in_half_an_accumulator() -> None:
    codes = torch.full((1, 2, 300), 120.0)
    assert sums_fit(codes, BYTES)
    assert sums_fit(codes, None)
    assert not sums_fit(codes, SHORTS)
    assert sums_fit(codes[..., :200], SHORTS)
