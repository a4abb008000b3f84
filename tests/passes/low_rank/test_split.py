"""A layer becomes its pieces one after the other: the window where it belongs, the bias at the end, weights once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float_programs import Chain, captured, sample
from fxpress_ir import Program, text, verify
from fxpress_passes.low_rank.decompositions import DECOMPOSITIONS, Piece
from fxpress_passes.low_rank.lens import Lens
from fxpress_passes.low_rank.split import add_weights, chain, split
from torch import Tensor, nn
from torch.nn import functional


def _layers(program: Program) -> list[str]:
    return [line.strip() for line in text(program).splitlines() if " = " in line]


def _split(program: Program, pieces: tuple[Piece, ...], dtype: torch.dtype = torch.float32) -> Program:
    edit = program.edit()
    targets = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
    split(edit, [node for node in edit.graph.nodes if node.target in targets], pieces, dtype)
    after = edit.finish()
    verify(after)
    return after


def _thin(*shape: int, windowed: tuple[bool, bool] = (False, False)) -> Piece:
    return Piece(torch.randn(shape, dtype=torch.float64), windowed)


def test_a_linear_layer_computes_the_product_and_has_its_bias_at_the_end() -> None:
    program, pieces = captured(Chain(nn.Linear(6, 5)), 1, 6), (_thin(2, 6), _thin(5, 2))
    after = _split(program, pieces)
    assert _layers(after) == [
        "linear_0 = aten.linear(x, %0.factor_0, None) : f32[batch, 2]",
        "linear_1 = aten.linear(linear_0, %0.factor_1, %0.bias) : f32[batch, 5]",
    ]
    (x,) = sample(program, 3)
    product = pieces[1].weight.numpy() @ pieces[0].weight.numpy()
    expected = x.double().numpy() @ product.T + program.tensors["0.bias"].detach().double().numpy()
    assert np.allclose(after.run(x)[0].numpy(), expected, atol=1e-5)
    assert "0.weight" not in after.tensors


CONVOLUTION = {"stride": (2, 1), "padding": (2, 0), "dilation": (1, 2)}
AFTER = {
    "channel": ["[2, 1], [2, 0], [1, 2], 1", "[1, 1], [0, 0], [1, 1], 1"],
    "spatial": ["[2, 1], [2, 0], [1, 1], 1", "[1, 1], [0, 0], [1, 2], 1"],
    "tucker": ["[1, 1], [0, 0], [1, 1], 1", "[2, 1], [2, 0], [1, 2], 1", "[1, 1], [0, 0], [1, 1], 1"],
}


@pytest.mark.parametrize("kind", DECOMPOSITIONS)
def test_stride_padding_and_dilation_go_to_the_piece_with_the_window(kind: str) -> None:
    layer = nn.Conv2d(4, 5, 3, **CONVOLUTION)  # type: ignore[arg-type]
    program = captured(Chain(layer), 1, 4, 9, 9)
    found = DECOMPOSITIONS[kind](layer.weight.detach().double(), Lens())
    pieces = found.pieces(found.rungs[0].ranks)
    after = _split(program, pieces)
    expected = AFTER[kind]
    assert len(_layers(after)) == len(expected)
    for place, (line, window) in enumerate(zip(_layers(after), expected, strict=True)):
        bias = "%0.bias" if place == len(expected) - 1 else "None"
        assert f"%0.factor_{place}, {bias}, {window})" in line
    (x,) = sample(program, 2)
    assert torch.allclose(after.run(x)[0], program.run(x)[0], atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name_stays_by_name(padding: str) -> None:
    layer = nn.Conv2d(4, 5, 3, padding=padding)
    program = captured(Chain(layer), 1, 4, 6, 6)
    after = _split(program, DECOMPOSITIONS["channel"](layer.weight.detach().double(), Lens()).pieces((5,)))
    assert [f"'{padding}'" in line or padding in line for line in _layers(after)] == [True, True]
    (x,) = sample(program, 2)
    assert torch.allclose(after.run(x)[0], program.run(x)[0], atol=1e-5)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(functional.relu(self.layer(x)))
        return result


def test_layers_that_share_a_weight_share_its_pieces() -> None:
    after = _split(captured(Twice(), 1, 6), (_thin(2, 6), _thin(6, 2)))
    assert _layers(after) == [
        "linear_0 = aten.linear(x, %layer.factor_0, None) : f32[batch, 2]",
        "linear_2 = aten.linear(linear_0, %layer.factor_1, None) : f32[batch, 6]",
        "relu = aten.relu(linear_2) : f32[batch, 6]",
        "linear_1_0 = aten.linear(relu, %layer.factor_0, None) : f32[batch, 2]",
        "linear_1_1 = aten.linear(linear_1_0, %layer.factor_1, None) : f32[batch, 6]",
    ]
    assert sorted(after.tensors) == ["layer.factor_0", "layer.factor_1"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pieces_are_rounded_to_the_type_that_is_asked(dtype: torch.dtype) -> None:
    pieces = (_thin(2, 6), _thin(5, 2))
    after = _split(captured(Chain(nn.Linear(6, 5).to(dtype)), 1, 6, dtype=dtype), pieces, dtype)
    for place, piece in enumerate(pieces):
        assert torch.equal(after.tensors[f"0.factor_{place}"], piece.weight.to(dtype))
        assert after.tensors[f"0.factor_{place}"].is_contiguous()


def test_a_chain_beside_a_layer_reads_what_the_layer_reads() -> None:
    program = captured(Chain(nn.ReLU(), nn.Linear(6, 5)), 1, 6)
    pieces = (_thin(2, 6), _thin(5, 2))
    edit = program.edit()
    layer = next(node for node in edit.graph.nodes if node.name == "linear")
    with edit.graph.inserting_before(layer):
        last = chain(edit, layer, pieces, add_weights(edit, "beside", pieces, torch.float32), None, ("into", "out"))
    edit.replace(layer, last)
    assert _layers(edit.finish()) == [
        "relu = aten.relu(x) : f32[batch, 6]",
        "into = aten.linear(relu, %beside_0, None) : f32[batch, 2]",
        "out = aten.linear(into, %beside_1, None) : f32[batch, 5]",
    ]
