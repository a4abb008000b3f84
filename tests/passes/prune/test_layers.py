"""Which weights can be pruned, why the others cannot, and a weight as a matrix whose neighbours are input channels."""

from __future__ import annotations

import torch
from float_programs import Chain, captured, refusals
from fxpress_ir import capture
from fxpress_passes import Context
from fxpress_passes.prune.layers import as_matrix, as_weight, columns, prunable
from torch import Tensor, nn
from torch.nn import functional


class Tied(nn.Module):
    """One weight for two linears, one that an embedding reads too, one that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.twice, self.scaled = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.twice(torch.relu(self.twice(self.embedding(ids))))
        return functional.linear(functional.linear(x, self.scaled * 2), self.embedding.weight)


def test_a_shared_weight_is_one_layer_and_the_rest_is_refused_with_the_way_on() -> None:
    program, context = capture(Tied().eval(), (torch.zeros(2, 3, dtype=torch.int64),)), Context()
    (layer,) = prunable(program, context)
    assert layer.weight == "twice.weight"
    assert [reader.name for reader in layer.readers] == ["linear", "linear_1"]
    assert refusals(context) == [
        "linear_2: its weight is computed; run fold-constants first",
        "linear_3: its weight is also read by embedding; untie the two",
    ]


def test_layers_come_in_order() -> None:
    program = captured(Chain(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 4, 2)), 2, 2, 4, 4)
    assert [layer.name for layer in prunable(program, Context())] == ["conv2d", "linear"]


def test_neighbours_in_a_row_are_input_channels() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = as_matrix(weight)
    assert matrix.shape == (2, columns(weight)) == (2, 12)
    assert matrix[1, :3].tolist() == weight[1, :, 0, 0].tolist()
    assert torch.equal(as_weight(matrix, weight), weight)
