"""A table that is also the last layer's weight is the layer's own when bits are tried on it; what is not shared stays."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program, capture
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.losses import divergence
from fxpress_passes.quantize.allocate_bits import AllocateBits
from fxpress_passes.quantize.layer_choices import layers_of
from fxpress_passes.quantize.own_weights import with_own_weights
from fxpress_passes.quantize.place_quantizers import PlaceQuantizers
from fxpress_passes.quantize.rounded import rounded_weight
from torch import Tensor, nn
from torch.nn import functional


class _Tied(nn.Module):
    """Embedding, a layer, and the embedding again as the weight of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(12, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.relu(self.hidden(self.table(ids)))
        return functional.linear(x, self.table.weight) + functional.linear(x * 0.5, self.table.weight)


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(_Tied().eval(), (torch.zeros(2, 5, dtype=torch.int64),), dynamic_shapes={"ids": {0: torch.export.Dim("batch")}})


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 12, (16, 5), generator=torch.Generator().manual_seed(1))


def test_layers_that_share_keep_one_tensor_and_values_stay(program: Program, ids: Tensor) -> None:
    apart = with_own_weights(program)
    assert [layer.names for layer in layers_of(apart)] == [layer.names for layer in layers_of(program)]
    weights = [layer.weight for layer in layers_of(apart)]
    assert weights[0] in program.tensors
    assert weights[1] not in program.tensors
    assert apart.tensors[weights[1]] is program.tensors["table.weight"]
    assert torch.equal(apart.run(ids)[0], program.run(ids)[0])
    assert with_own_weights(apart) is apart


def test_nothing_shared_is_the_same_program() -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 2, 4)
    assert with_own_weights(program) is program


def test_a_sensitivity_is_of_the_layer_as_it_is_quantized(program: Program, ids: Tensor) -> None:
    """`place-quantizers` rounds the weight that the layers read, not the rows that ids look up."""
    context = Context(Evidence(Calibration([(ids,)])))
    found = AllocateBits(choices=("w8", "w2"), rounds=0).problem(program, context).units[1]
    weight = program.tensors["table.weight"].detach()
    hidden = torch.relu(functional.linear(weight[ids], *(program.tensors[f"hidden.{name}"].detach() for name in ("weight", "bias"))))
    exact, rounded = (functional.linear(hidden * 1.5, one) for one in (weight, rounded_weight(weight, 2, 0)))
    assert found.choices[1].loss == pytest.approx(float(divergence(exact, rounded)), rel=1e-4)
    placed = PlaceQuantizers(bits=tuple(f"{name}=w2" for name in found.members)).apply(program, context)
    assert float(divergence(exact, placed.run(ids)[0])) == pytest.approx(found.choices[1].loss, rel=0.15)
