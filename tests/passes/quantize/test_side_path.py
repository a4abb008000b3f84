"""A layer and its side path add up, in floats as NumPy says, and on grids whose ratios are dyadic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from float_programs import Chain, captured, measured, sample, untouched
from fxpress_ir import Program, text, verify
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Range
from fxpress_passes.low_rank.decompositions import Piece
from fxpress_passes.low_rank.decompositions.channel import Channel
from fxpress_passes.low_rank.lens import Lens
from fxpress_passes.quantize.scales import SHORT_LIMIT, Grid
from fxpress_passes.quantize.side_path import SidePath, _refined, add_side_paths, has_side_path, quantize_side_paths
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional


def _node(program: Program, name: str) -> fx.Node:
    return next(node for node in program.graph.nodes if node.name == name)


def _pieces(*shapes: tuple[int, ...]) -> tuple[Piece, ...]:
    return tuple(Piece(torch.randn(shape, dtype=torch.float64)) for shape in shapes)


def _code(program: Program) -> list[str]:
    return [line.strip() for line in text(program).splitlines() if " = " in line or line.startswith("  return")]


class TwoReaders(nn.Module):
    """Two things read the layer's result; another layer stands behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        result: Tensor = self.last(y.relu() + y)
        return result


def test_before_and_expected() -> None:
    program, pieces = captured(TwoReaders(), 1, 6), _pieces((2, 6), (5, 2))
    bias = torch.randn(5, dtype=torch.float64)
    with untouched(program):
        after = add_side_paths(program, [SidePath(_node(program, "linear"), pieces, bias)])
    verify(after)
    assert _code(after) == [
        "linear = aten.linear(x, %first.weight, %first.bias) : f32[batch, 5]",
        "linear_side_in = aten.linear(x, %linear.side_0, None) : f32[batch, 2]",
        "linear_side_out = aten.linear(linear_side_in, %linear.side_1, %linear.side_bias) : f32[batch, 5]",
        "linear_with_side = aten.add.Tensor(linear, linear_side_out) : f32[batch, 5]",
        "relu = aten.relu(linear_with_side) : f32[batch, 5]",
        "add = aten.add.Tensor(relu, linear_with_side) : f32[batch, 5]",
        "linear_1 = aten.linear(add, %last.weight, %last.bias) : f32[batch, 4]",
        "return linear_1",
    ]
    (x,) = sample(program, 3)
    wide = {name: tensor.detach().double().numpy() for name, tensor in program.tensors.items()}
    low = pieces[1].weight.numpy() @ pieces[0].weight.numpy()
    y = x.double().numpy() @ (wide["first.weight"] + low).T + wide["first.bias"] + bias.numpy()
    expected = (np.maximum(y, 0) + y) @ wide["last.weight"].T + wide["last.bias"]
    assert np.allclose(after.run(x)[0].numpy(), expected, atol=1e-4)


def test_a_convolutions_path_has_its_stride_and_padding_once() -> None:
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    program = captured(Chain(layer), 1, 3, 7, 7)
    low = Channel(torch.randn(4, 3, 3, 3, dtype=torch.float64), Lens()).pieces((2,))
    after = add_side_paths(program, [SidePath(_node(program, "conv2d"), low)])
    (x,) = sample(program, 2)
    whole = torch.einsum("or,rihw->oihw", low[1].weight[:, :, 0, 0], low[0].weight).float()
    expected = functional.conv2d(x, layer.weight + whole, layer.bias, 2, 1)
    assert torch.allclose(after.run(x)[0], expected, atol=1e-4)


def test_a_path_is_known_by_the_layer_and_its_parts() -> None:
    program = captured(TwoReaders(), 1, 6)
    after = add_side_paths(program, [SidePath(_node(program, "linear"), _pieces((2, 6), (5, 2)))])
    known = {node.name: has_side_path(after, node) for node in after.graph.nodes if node.target is torch.ops.aten.linear.default}
    assert known == {"linear": True, "linear_side_in": True, "linear_side_out": True, "linear_1": False}
    assert not any(has_side_path(program, node) for node in program.graph.nodes)


def test_a_tensor_named_like_the_layer_does_not_hide_its_path() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.linear)

    program = captured(Named(), 1, 6)
    after = add_side_paths(program, [SidePath(_node(program, "linear"), _pieces((2, 6), (5, 2)))])
    assert has_side_path(after, _node(after, "linear"))


def _quantized(program: Program) -> tuple[Program, Program]:
    """The simulated program, and the same with a side path of a tenth of the weight beside every layer."""
    context = measured(program)
    simulated = PlaceQuantizers().apply(program, context)
    layers = [node for node in simulated.graph.nodes if node.name in ("conv2d", "linear")]
    paths = []
    for node in layers:
        shape = arguments(node)["weight"].meta["val"].shape
        paths.append(SidePath(node, Channel(torch.randn(shape, dtype=torch.float64) / 10, Lens()).pieces((2,))))
    added = add_side_paths(simulated, paths)
    return added, quantize_side_paths(added, paths, context.evidence.ranges(added))


def _quantizer(program: Program, name: str) -> Grid:
    named = arguments(next(user for user in _node(program, name).users if user.target is torch.ops.fxp.fake_quantize.default))
    return Grid(named["scale"], named["qmin"], named["qmax"])


def _net() -> Program:
    torch.manual_seed(0)
    return captured(Chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)), 1, 3, 6, 6)


def test_quantised_paths_stand_on_grids_that_integers_can_follow() -> None:
    added, after = _quantized(_net())
    verify(after)
    sources = {"conv2d": _quantizer(after, "x"), "linear": _quantizer(after, "relu")}
    results = {"conv2d": _quantizer(after, "relu"), "linear": _quantizer(after, "linear_with_side")}
    for name, source in sources.items():
        inner, outer, own = (_quantizer(after, one) for one in (f"{name}_side_in", f"{name}_side_out", name))
        assert (inner.qmin, inner.qmax) == (-128, 127)
        assert outer == own
        assert (own.qmin, own.qmax) == (-(2**15), 2**15 - 1)
        halvings = math.log2(results[name].scale / own.scale)
        assert halvings == int(halvings)
        for stem, (into, to) in {"side_in": (source, inner), "side_out": (inner, outer)}.items():
            scales = after.tensors[f"{name}_{stem}.scale"].double().numpy()
            multipliers = scales * into.scale / to.scale * 2.0**30
            assert np.allclose(multipliers, np.rint(multipliers), rtol=1e-12, atol=0)
    inputs = sample(_net(), 64, seed=9)
    assert difference(added.run(*inputs), after.run(*inputs)).sqnr > 25
    integer = ToInteger(integer_only=True).apply(after, Context())
    assert integer.stage == "integer"
    assert difference(after.run(*inputs), integer.run(*inputs)).sqnr > 35


def test_without_quantisers_around_the_layer_it_is_an_error() -> None:
    program = _net()
    paths = [SidePath(_node(program, "conv2d"), Channel(torch.randn(8, 3, 3, 3, dtype=torch.float64), Lens()).pieces((1,)))]
    added = add_side_paths(program, paths)
    with pytest.raises(PassError, match="compensate, node conv2d: its input is not quantised; run place-quantizers first"):
        quantize_side_paths(added, paths, measured(added).evidence.ranges(added))


def test_a_result_without_a_quantiser_is_an_error() -> None:
    program = captured(Chain(nn.Linear(6, 5), nn.Sigmoid()), 1, 6)
    edit = program.edit()
    (x,) = edit.graph.find_nodes(op="placeholder")
    with edit.graph.inserting_after(x):
        quantized = edit.call(torch.ops.fxp.fake_quantize.default, x, 0.1, -128, 127, like=x, name="x_q")
    next(node for node in edit.graph.nodes if node.name == "linear").replace_input_with(x, quantized)
    half = edit.finish()
    paths = [SidePath(_node(half, "linear"), _pieces((1, 6), (5, 1)))]
    added = add_side_paths(half, paths)
    with pytest.raises(PassError, match="compensate, node linear: its result is not quantised; run place-quantizers first"):
        quantize_side_paths(added, paths, measured(added).evidence.ranges(added))


magnitudes = st.floats(2.0**-20, 2.0**20)


@given(magnitudes, st.sampled_from([(0, 255), (-128, 127), (-(2**15), 2**15 - 1)]), st.lists(magnitudes, min_size=1, max_size=2))
def test_a_refined_grid_is_a_power_of_two_finer_as_far_as_twice_the_range_fits(
    scale: float, codes: tuple[int, int], seen: list[float]
) -> None:
    grid = Grid(scale, *codes)
    found = _refined(grid, [Range(-one, one / 2) for one in seen])
    assert (found.qmin, found.qmax) == (-SHORT_LIMIT - 1, SHORT_LIMIT)
    finer = Fraction(scale) / Fraction(found.scale)
    steps = range(1, 9) if grid.bits == 8 else range(1)
    assert finer in [2**step for step in steps]
    # the number of halvings is a logarithm in float64
    reach, slack = 2 * Fraction(max(seen)), 1 + Fraction(1, 2**40)
    assert Fraction(found.scale) * SHORT_LIMIT * slack >= reach or finer == 2 ** steps[0]
    assert finer == 2 ** steps[-1] or Fraction(found.scale) / 2 * SHORT_LIMIT <= reach * slack


def test_of_values_that_are_zero_the_finest_grid_is_taken() -> None:
    assert _refined(Grid(1.0, -128, 127), [Range(0.0, 0.0)]).scale == 2.0**-8
