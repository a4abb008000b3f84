"""An average by regions: slices, sums and multipliers of their own, one grid; the common divisor is exact, the others nearly."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from float_programs import captured, measured
from fxpress_ir import Program, text
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.quantize.place_quantizers import place
from quantized import edges, exactly, quantized, targets, wide
from torch import Tensor, fx
from torch.nn import functional

_fxp = torch.ops.fxp


def _inside(x: Tensor) -> Tensor:
    """Divisors 4, 6 and 9 over 6x6, 9 the most frequent."""
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


EXPECTED = """\
integer program(x: float32[batch, 2, 4, 4])
  %avg_pool2d.multiplier : s32[1]
  %avg_pool2d.multiplier_1 : s32[1]
  quantize_default = fxp.quantize(x, s, -128, 127, s8) : s8[batch, 2, 4, 4]
  avg_pool2d_part = aten.slice.Tensor(quantize_default, 3, 0, 2) : s8[batch, 2, 4, 2]
  avg_pool2d_sum = fxp.sum_pool2d(avg_pool2d_part, [4, 2], [4, 4], [0, 0, 0, 0]) : s32[batch, 2, 1, 1]
  avg_pool2d_region = fxp.requantize(avg_pool2d_sum, %avg_pool2d.multiplier, 16, -128, 127, 1, s8) : s8[batch, 2, 1, 1]
  avg_pool2d_part_1 = aten.slice.Tensor(quantize_default, 3, 1, 4) : s8[batch, 2, 4, 3]
  avg_pool2d_sum_1 = fxp.sum_pool2d(avg_pool2d_part_1, [4, 3], [4, 4], [0, 0, 0, 0]) : s32[batch, 2, 1, 1]
  avg_pool2d_region_1 = fxp.requantize(avg_pool2d_sum_1, %avg_pool2d.multiplier_1, 16, -128, 127, 1, s8) : s8[batch, 2, 1, 1]
  avg_pool2d_out = fxp.concat([avg_pool2d_region, avg_pool2d_region_1], 3) : s8[batch, 2, 1, 2]
  dequantize_default = fxp.dequantize(avg_pool2d_out, s) : f32[batch, 2, 1, 2]
  return dequantize_default"""


def test_before_and_expected() -> None:
    program = captured(lambda x: functional.avg_pool2d(x, (4, 3), 2, (0, 1), count_include_pad=False), 1, 2, 4, 4)
    assert re.sub(r"\b\d\.\d+(e-\d+)?\b", "s", text(quantized(program).integer)) == EXPECTED


def test_bands_are_joined_along_columns_then_along_rows() -> None:
    integer = exactly(_inside).integer
    # the middle ones read whole rows and columns: nothing is sliced off
    band = ["slice", "sum_pool2d", "requantize", "sum_pool2d", "requantize", "slice", "sum_pool2d", "requantize", "concat"]
    assert targets(integer) == ["slice", *band, *band, "slice", *band, "concat"]
    joins = integer.graph.find_nodes(op="call_function", target=_fxp.concat.default)
    assert [(node.name, arguments(node)["axis"]) for node in joins] == [
        ("avg_pool2d_band", 3),
        ("avg_pool2d_band_1", 3),
        ("avg_pool2d_band_2", 3),
        ("avg_pool2d_out", 2),
    ]


def _multipliers(program: Program) -> list[tuple[int, int]]:
    """b and c of each requantisation, in order."""
    nodes = program.graph.find_nodes(op="call_function", target=_fxp.requantize.default)
    return [(int(program.tensors[str(named["b"].target)]), named["c"]) for named in map(arguments, nodes)]


@pytest.mark.parametrize(
    ("body", "divisors", "common"),
    [
        (_inside, [4, 6, 4, 6, 9, 6, 4, 6, 4], 9),
        (lambda x: functional.avg_pool2d(x, 5, 4, ceil_mode=True), [25, 10, 10, 4], 10),
        (lambda x: functional.adaptive_avg_pool2d(x, (1, 5)), [12], 12),
        (lambda x: functional.adaptive_avg_pool2d(x[:, :, :, 1:], (2, 3)), [6, 9, 6], 6),
    ],
)
def test_the_common_divisor_is_exact_and_the_others_are_rounded(body: Callable[[Tensor], Tensor], divisors: list[int], common: int) -> None:
    stages = exactly(body)
    source, result = edges(stages, wide(stages.float, 1))
    found = _multipliers(stages.integer)
    assert len(found) == len(divisors)
    for (b, c), divisor in zip(found, divisors, strict=True):
        real = source.scale / (divisor * result.scale)
        most = 1e-12 if divisor == common else 2.0 ** -(c + 1)
        assert abs(b * 2.0**-c - real) <= most
        assert c == 16 or abs(b * 2.0**-c / real - 1) <= 2.0**-15


@pytest.mark.parametrize(
    "body",
    [
        _inside,
        lambda x: functional.avg_pool2d(x, 4, 3, 2, ceil_mode=True),
        lambda x: functional.adaptive_avg_pool2d(x, (4, 5)),
        lambda x: functional.adaptive_avg_pool2d(x, 8),
    ],
)
def test_a_result_is_the_step_nearest_to_the_average(body: Callable[[Tensor], Tensor]) -> None:
    stages = exactly(body)
    x = wide(stages.float, 3)
    source, result = edges(stages, x)
    expected = body(source.simulated.double()).clamp(-128 * result.scale, 127 * result.scale)
    (found,) = stages.integer.run(x)
    # half a step, and 128 of them times the rounding of multipliers: of 25 elements, 2**-17 * 25
    assert float((found - expected).abs().max()) <= result.scale * (0.5 + 128 * 25 * 2.0**-17)


def test_a_clamp_bounds_every_region() -> None:
    integer = exactly(lambda x: functional.hardtanh(3 * _inside(x).clamp(0.0, 0.25))).integer
    nodes = integer.graph.find_nodes(op="call_function", target=_fxp.requantize.default)
    bounds = {(arguments(node)["qmin"], arguments(node)["qmax"]) for node in nodes}
    assert len(nodes) == 9
    assert len(bounds) == 1
    assert next(iter(bounds))[0] == 0


def test_scales_that_were_changed_since_they_were_snapped_are_an_error() -> None:
    program = captured(_inside, 1, 4, 6, 6)
    plan = PlaceQuantizers().decide(program, measured(program))
    grid = plan.activations["avg_pool2d"]
    changed = replace(plan, activations={**plan.activations, "avg_pool2d": replace(grid, scale=grid.scale * 1.001)})
    with pytest.raises(PassError) as caught:
        ToInteger().apply(place(program, changed), Context())
    message = "its scales are not snapped to dyadics; snap scales again after changing them"
    assert str(caught.value) == f"to-integer, node avg_pool2d: {message}"


def test_every_operator_of_a_region_comes_from_the_average() -> None:
    made: list[fx.Node] = [node for node in exactly(_inside).integer.graph.nodes if node.name.startswith("avg_pool2d_")]
    computed = [node for node in made if node.op == "call_function"]
    assert {node.meta["provenance"] for node in computed} == {"avg_pool2d"}
