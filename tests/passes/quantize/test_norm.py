"""Gains, shifts and epsilons as integers are those of rational arithmetic up to the stated rounding, and fit 32 bits."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import pytest
import torch
from blocks import WIDTH
from float_programs import Chain, captured, measured, operators, sample
from fxpress_ir.ops import arguments
from fxpress_passes.contract import difference
from fxpress_passes.quantize.norm import WIDTH_LIMIT, affine_steps, epsilon_steps
from fxpress_passes.quantize.recognized import Recognized
from fxpress_passes.quantize.scales import Grid
from hypothesis import given
from hypothesis import strategies as st
from quantized import Stages, quantized, targets
from sketch import Found, Sketch, alone
from torch import Tensor, nn

_aten, _fxp = torch.ops.aten, torch.ops.fxp
LAYER, RMS = _aten.layer_norm.default, _aten.rms_norm.default
SHAPE = (2, 3, 8)

sizes = st.integers(2, WIDTH_LIMIT) | st.sampled_from([2, 3, 4, 768, 1023, 1024, 3968, 3969, WIDTH_LIMIT])
Pairs = list[tuple[float, float]]
channels = st.lists(st.tuples(*[st.floats(-8, 8, width=32)] * 2), min_size=1, max_size=4)
"""Gain and shift of each channel."""
usual = st.floats(-16, 0).map(lambda exponent: 2.0**exponent)
"""Scales of results of usual sizes in 8 and 16 bits."""
any_scale = st.floats(-120, 40).map(lambda exponent: 2.0**exponent)


def test_a_layer_norm_centres_and_a_root_mean_square_does_not() -> None:
    sketch = Sketch(*SHAPE)
    gain, shift = sketch.tensor(8), sketch.tensor(8)
    layer, plain = sketch.call(LAYER, sketch.x, [8], gain, shift, 1e-3), sketch.call(LAYER, sketch.x, [8])
    root, bare = sketch.call(RMS, sketch.x, [8], gain, 1e-6), sketch.call(RMS, sketch.x, [8])
    assert sketch.found(layer, plain, root, bare) == [
        Recognized("normalize", (sketch.x,), weight=gain, bias=shift, epsilon=1e-3),
        Recognized("normalize", (sketch.x,), epsilon=1e-5),
        Recognized("normalize", (sketch.x,), weight=gain, epsilon=1e-6, centre=False),
        Recognized("normalize", (sketch.x,), epsilon=2.0**-23, centre=False),
    ]


@pytest.mark.parametrize("size", [2, WIDTH_LIMIT])
def test_the_narrowest_and_the_widest_row(size: int) -> None:
    x, found = alone(LAYER, [size], shape=(1, size))
    assert found == Recognized("normalize", (x,), epsilon=1e-5)


def _with_computed(target: Any, *constants: bool) -> Found:
    """A norm of which the constants that are False are computed from others."""
    sketch = Sketch(*SHAPE)
    parts = [sketch.tensor(8) if constant else sketch.call(_aten.neg.default, sketch.tensor(8)) for constant in constants]
    return sketch.found(sketch.call(target, sketch.x, [8], *parts))[0]


def test_what_has_no_integer_form_says_why() -> None:
    assert alone(LAYER, [3, 8], shape=SHAPE)[1] == "it normalises over more than the last dimension, or over a symbolic one"
    assert alone(RMS, [1], shape=(2, 1))[1] == f"it normalises over 1 values; 2 to {WIDTH_LIMIT} fit its arithmetic"
    assert alone(LAYER, [WIDTH_LIMIT + 1], shape=(1, WIDTH_LIMIT + 1))[1] == "it normalises over 4097 values; 2 to 4096 fit its arithmetic"
    computed = [_with_computed(RMS, False), _with_computed(LAYER, False, True), _with_computed(LAYER, True, False)]
    assert computed == ["its gain is computed, not constant"] * 3
    double = Sketch(*SHAPE, dtype=torch.float64)
    assert double.found(double.call(LAYER, double.x, [8])) == ["it computes in torch.float64"]


@given(sizes, st.floats(-12, -1).map(lambda exponent: 10.0**exponent), usual)
def test_an_epsilon_is_counted_in_squares_of_steps(size: int, epsilon: float, scale: float) -> None:
    exact = Fraction(epsilon) * size**2 / Fraction(scale) ** 2
    steps = epsilon_steps(epsilon, size, scale)
    assert steps >= 1
    assert steps == 1 or abs(steps - exact) <= Fraction(1, 2) + exact / 2**50  # float64 noise of four factors


def _largest(size: int) -> int:
    """|u| of the widest row, its rounding included."""
    return isqrt(size) * 1024 + 1024


def _fits(gain: list[float], shift: list[float], size: int, scale: float, c: int) -> bool:
    """Every product, offset and rounding term fits 32 bits at the shift c."""
    gains, shifts = (
        [round(Fraction(real) / Fraction(scale) * 2**c / unit) for real in reals] for reals, unit in ((gain, 1024), (shift, 1))
    )
    most = _largest(size) + 1024
    return all(abs(g) < 2**15 and abs(g) * most + abs(b) + 2**c < 2**31 for g, b in zip(gains, shifts, strict=True))


@given(sizes, channels, usual, st.data())
def test_gains_and_shifts_are_those_of_rational_arithmetic(size: int, pairs: Pairs, scale: float, data: st.DataObject) -> None:
    gain, shift = (list(part) for part in zip(*pairs, strict=True))
    g, b, c = affine_steps(torch.tensor(gain), torch.tensor(shift), size, scale)
    assert (g.dtype, b.dtype) == (torch.int32, torch.int32)
    assert 1 <= c <= 24
    assert _fits(gain, shift, size, scale, c)
    assert c == 24 or not _fits(gain, shift, size, scale, c + 1)
    most = _largest(size)
    u = data.draw(st.integers(-most, most) | st.sampled_from([-most, 0, most]))
    for position, (one, two) in enumerate(pairs):
        exact = (Fraction(one) * u / 1024 + Fraction(two)) / Fraction(scale)
        found = round(Fraction(u * int(g[position]) + int(b[position]), 2**c))
        # half a step for the result, half of 2**-c each for the gain, times u, and for the shift; the rest is float64's
        assert abs(found - exact) <= Fraction(1, 2) + Fraction(abs(u) + 1, 2 ** (c + 1)) + Fraction(1, 2**20)


@given(sizes, channels, any_scale)
def test_what_is_read_fits_32_bits_on_every_grid(size: int, pairs: Pairs, scale: float) -> None:
    """On grids far too fine for the result too, where the limits only have to saturate as the exact values do."""
    g, b, c = affine_steps(*(torch.tensor(part) for part in zip(*pairs, strict=True)), size, scale)
    most = _largest(size)
    for gain, offset, (one, two) in zip(g.tolist(), b.tolist(), pairs, strict=True):
        assert abs(gain) < 2**15
        assert most * abs(gain) + abs(offset) + 2**c < 2**31
        assert gain * one >= 0
        assert offset * two >= 0


def test_shifts_of_the_widest_rows_keep_their_signs() -> None:
    """The gain takes half of the 32 bits of 4096 values; what is left goes to the shift."""
    g, b, c = affine_steps(torch.tensor([1.0, 0.5, -1.0]), torch.tensor([0.0, 3.0, -3.0]), 4096, 0.05)
    assert [round(float(part), 3) for part in g * 1024 / 2**c * 0.05] == [1.0, 0.5, -1.0]
    assert [round(float(part), 3) for part in b / 2**c * 0.05] == [0.0, 3.0, -3.0]


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(8, eps=1e-2)
        nn.init.uniform_(self.norm.weight, -2, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x)
        return result


def _layer() -> nn.Module:
    layer = nn.LayerNorm(8)
    nn.init.uniform_(layer.weight, -2, 2)
    nn.init.uniform_(layer.bias, -2, 2)
    return Chain(layer)


NORMS = {"layer": _layer, "root": Root, "bare": lambda: Chain(nn.LayerNorm(8, elementwise_affine=False))}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_in_integers_is_the_norm(name: str) -> None:
    """Input and result have 16 bits; between them the unit counts 2**-10."""
    program = captured(NORMS[name](), *SHAPE)
    stages = quantized(program, measured(program))
    assert targets(stages.integer) == ["normalize", "affine"]
    for batch in (1, 5):
        (x,) = sample(program, batch, seed=9)
        assert difference(stages.float.run(x), stages.integer.run(x)).sqnr >= 60
        assert difference(stages.simulated.run(x), stages.integer.run(x)).sqnr >= 60


def test_a_row_of_equal_values_is_its_shift() -> None:
    program = captured(_layer(), *SHAPE)
    integer = quantized(program).integer
    found = integer.run(torch.full((3, 3, 8), 0.7))[0]
    shift = program.tensors["0.bias"].detach()
    assert torch.allclose(found, shift.expand_as(found), atol=1e-3)  # a few of 2**15 steps of the result


def _twice() -> Stages:
    return quantized(block_program := captured(Both(), 2, 3, WIDTH), measured(block_program))


class Both(nn.Module):
    """A normalised value that a layer reads in 8 bits and a residual sum in 16."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        result: Tensor = self.last(y + self.layer(y))
        return result


def test_one_unit_serves_two_grids() -> None:
    stages = _twice()
    first, second, _ = stages.integer.graph.find_nodes(op="call_function", target=_fxp.affine.default)
    wide, narrow = arguments(first), arguments(second)
    assert wide["u"] is narrow["u"]
    assert (wide["dtype"], narrow["dtype"]) == (torch.int16, torch.int8)
    assert operators(stages.integer).count("fxp.normalize") == 2
    grids = [Grid(named["scale"], named["qmin"], named["qmax"]) for named in map(arguments, _quantizers(stages, "layer_norm"))]
    assert [grid.bits for grid in grids] == [16, 8]
    for named, grid in zip((wide, narrow), grids, strict=True):
        g, b, c = affine_steps(stages.float.tensors["norm.weight"], stages.float.tensors["norm.bias"], WIDTH, grid.scale)
        assert torch.equal(stages.integer.tensors[str(named["g"].target)], g)
        assert torch.equal(stages.integer.tensors[str(named["b"].target)], b)
        assert named["c"] == c


def _quantizers(stages: Stages, site: str) -> list[Any]:
    fakes = stages.simulated.graph.find_nodes(op="call_function", target=_fxp.fake_quantize.default)
    return [fake for fake in fakes if arguments(fake)["x"].name == site]
