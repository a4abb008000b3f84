"""Layers that 8 bits of input would spoil read 16; the estimate is near what rounding does when it is tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.quantize.coarse import LEAST_ROWS, coarse_readers
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.scales import activation_grid
from torch import Tensor, nn

WIDE = 60.0
"""How many times wider than the others one channel is."""


class _Widened(nn.Module):
    """The first of `channels` along dimension 1 many times as large as the others."""

    def __init__(self, channels: int, rank: int, wide: float = WIDE) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels).index_fill(0, torch.tensor([0]), wide).reshape(channels, *[1] * (rank - 2)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.scale


def _layer(layer: nn.Module) -> nn.Module:
    """It barely reads its first input, as layers after a wide channel do."""
    assert isinstance(layer.weight, Tensor)
    with torch.no_grad():
        layer.weight.select(0 if isinstance(layer, nn.ConvTranspose2d) else 1, 0).mul_(1 / WIDE)
    return layer


LAYERS = {
    "linear": (lambda: nn.Linear(12, 7), (12,), 7),
    "convolution": (lambda: nn.Conv2d(12, 7, 3, padding=1), (12, 5, 5), 175),
    "transposed convolution": (lambda: nn.ConvTranspose2d(12, 7, 4, stride=2, padding=1), (12, 5, 5), 700),
}


def _case(name: str, wide: float = WIDE, rows: int = 64) -> tuple[Program, Context]:
    build, shape, results = LAYERS[name]
    torch.manual_seed(0)
    program = captured(
        Chain(_Widened(12, len(shape) + 1, wide), _layer(build()), nn.ReLU(), nn.Flatten(), nn.Linear(results, 3)), 2, *shape
    )
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))
    return program, Context(Evidence(Calibration([(x[: rows // 2],), (x[rows // 2 :],)])))


def _coarse(program: Program, context: Context, floor: float, bits: int = 8, islands: Sequence[str] = ()) -> list[str]:
    recognition, ranges = recognize(program.graph), context.evidence.ranges(program)
    nodes = [node for node in program.graph.nodes if node.name in islands]
    found = coarse_readers(recognition, nodes, program.tensors, lambda node: ranges[node.name], lambda _: bits, floor)
    return sorted((recognition.found[node].core or node).name for node in found)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", LAYERS)
def test_the_estimate_is_near_what_rounding_does(name: str) -> None:
    """The floor at which a layer turns coarse, against its result's error when its input alone is rounded."""
    program, context = _case(name)
    core = next(node for node in program.graph.nodes if node.name in ("linear", "conv2d", "conv_transpose2d"))
    low, high = 0.0, 60.0
    while high - low > 0.05:
        middle = (low + high) / 2
        low, high = (low, middle) if core.name in _coarse(program, context, middle) else (middle, high)
    x = torch.randn(64, *LAYERS[name][1], generator=torch.Generator().manual_seed(1))
    given = torch.tanh(x) * program.tensors[next(key for key in program.tensors if key.endswith("scale"))]
    seen = context.evidence.ranges(program)["mul"]
    step = activation_grid(seen.low, seen.high, unsigned=False).scale
    _, *parts = core.args
    arguments = [program.tensors[str(part.target)] if isinstance(part, torch.fx.Node) else part for part in parts]
    right, rounded = (core.target(value, *arguments).movedim(1, -1).flatten(0, -2) for value in (given, (given / step).round() * step))
    share = float(((rounded - right).square().mean(0) / right.var(0)).mean())
    assert -10 * math.log10(share) == pytest.approx(low, abs=2)  # fewer taps add at the border


@pytest.mark.parametrize("name", LAYERS)
def test_a_wide_channel_makes_a_layer_read_16_bits_and_its_result_good(name: str) -> None:
    program, context = _case(name)
    good, plain = PlaceQuantizers(), PlaceQuantizers(input_floor=0)
    x = torch.randn(32, *LAYERS[name][1], generator=torch.Generator().manual_seed(2))
    sqnr = {}
    for choice in (good, plain):
        simulated = choice.apply(program, context)
        integer = ToInteger().apply(simulated, context)
        sqnr[choice] = difference(program.run(x), integer.run(x)).sqnr
    assert good.decide(program, context).activations["mul"].bits == 16
    assert plain.decide(program, context).activations["mul"].bits == 8
    assert sqnr[good] > sqnr[plain] + 6


def test_layers_that_8_bits_serve_keep_them() -> None:
    program, context = _case("linear", wide=1.0)
    assert _coarse(program, context, 25.0) == []
    assert {grid.bits for site, grid in PlaceQuantizers().decide(program, context).activations.items() if site != "linear_1"} == {8}


def test_few_rows_tell_nothing() -> None:
    program, context = _case("linear", rows=LEAST_ROWS - 2)
    assert _coarse(program, context, 25.0) == []


def test_islands_and_layers_whose_sums_leave_no_16_bits_are_left() -> None:
    program, context = _case("linear")
    assert _coarse(program, context, 25.0) == ["linear"]
    relu = next(node.name for node in program.graph.nodes if node.name == "relu")
    assert _coarse(program, context, 25.0, islands=[relu]) == []
    torch.manual_seed(0)
    heavy = captured(Chain(_Widened(20000, 2, 1e4), nn.Linear(20000, 2)), 2, 20000)
    x = torch.randn(32, 20000, generator=torch.Generator().manual_seed(1))
    seen = Context(Evidence(Calibration([(x,)])))
    assert _coarse(heavy, seen, 60.0) == []
