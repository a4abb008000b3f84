"""A layer's result is the product of the rows of its inputs and of its weight, whatever its kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from float_programs import Chain, captured, sample
from fxpress_ir.ops import arguments
from fxpress_passes.reconstruct import matrix as module
from fxpress_passes.reconstruct.matrix import Matrix, spread
from torch import nn

CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (1, 3, 6)),
    "stride and padding": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1)), (1, 4, 7, 6)),
    "dilated groups": (nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (1, 4, 6, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (1, 4, 6, 5)),
    "same": (nn.Conv2d(4, 6, (5, 3), padding="same"), (1, 4, 6, 5)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), (1, 4, 6, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (1, 4, 5, 4)),
    "transposed, cropped": (nn.ConvTranspose2d(4, 6, 2, stride=(2, 3), padding=1, dilation=1), (1, 4, 5, 4)),
    "transposed groups": (nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2), (1, 4, 5, 4)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("at_once", [1 << 22, 1])
def test_rows_times_the_weight_are_the_result(name: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    layer, shape = CASES[name]
    program = captured(Chain(layer), *shape)
    node: Any = next(node for node in program.graph.nodes if node.op == "call_function")
    weight = program.tensors[str(arguments(node)["weight"].target)].detach()
    matrix, (x,) = Matrix(node, weight), sample(program, 5)
    wide, y = matrix.of(weight), layer(x).detach()
    assert wide.shape == (matrix.groups, matrix.rows, matrix.columns)
    assert torch.equal(matrix.weight(wide), weight)
    rows = [(part @ wide.transpose(1, 2), result) for part, result in matrix.parts(x, y)]
    assert len(rows) == (1 if at_once > 1 or matrix.is_linear else 5)
    bias = 0 if layer.bias is None else layer.bias.detach().reshape(matrix.groups, 1, matrix.rows)  # type: ignore[union-attr]
    for product, result in rows:
        assert torch.allclose(product + bias, result, atol=1e-5)  # sums of some ten float32 products in another order


def test_groups_of_a_transposed_convolution_share_scales() -> None:
    for name, count in (("transposed groups", 3), ("dilated groups", 6)):
        layer, shape = CASES[name]
        program = captured(Chain(layer), *shape)
        node: Any = next(node for node in program.graph.nodes if node.op == "call_function")
        matrix = Matrix(node, layer.weight.detach())  # type: ignore[arg-type]
        scales = torch.arange(1.0, 1 + count)
        rows = matrix.expand(scales)[:, :, 0]
        assert rows.shape == (2, 3)
        assert torch.equal(matrix.collect(rows), scales * (2 if count == 3 else 1))


def test_zeros_between_pixels() -> None:
    x = torch.arange(1.0, 7).reshape(1, 1, 2, 3)
    expected = torch.tensor([[1.0, 0, 2, 0, 3], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [4, 0, 5, 0, 6]])
    assert torch.equal(spread(x, (3, 2))[0, 0], expected)
