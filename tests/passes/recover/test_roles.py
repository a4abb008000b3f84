"""Which tensors are what, read off the graph, plain and quantised."""

from __future__ import annotations

import torch
from float_programs import Chain, captured, measured, sample
from fxpress_ir import capture
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.recover.roles import roles
from torch import Tensor, nn
from torch.nn import functional


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions, self.norm = nn.Embedding(7, 4), nn.Parameter(torch.randn(3, 4)), nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)
        self.fixed: Tensor
        self.register_buffer("fixed", torch.ones(4))

    def forward(self, ids: Tensor) -> Tensor:
        return functional.linear(self.mix(self.norm(self.embedding(ids) + self.positions)) * self.fixed, self.embedding.weight)


def test_every_tensor_has_one_role_and_buffers_have_none() -> None:
    found = roles(capture(Tied().eval(), (torch.zeros(2, 3, dtype=torch.int64),)))
    assert (found.weights, found.biases) == (("mix.weight", "embedding.weight"), ("mix.bias",))
    assert (found.norms, found.tables, found.others) == (("norm.weight", "norm.bias"), (), ("positions",))
    assert (found.head, found.tied, found.first, found.last) == (
        ("embedding.weight",),
        ("embedding.weight",),
        "mix.weight",
        "embedding.weight",
    )
    assert "fixed" not in found.everything


def test_inputs_of_an_output_are_counted() -> None:
    program = captured(Chain(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 2, 2), nn.BatchNorm2d(2)), 2, 4, 5, 5)
    found = roles(program)
    assert found.fans == {"0.weight": 2 * 9, "1.weight": 6 * 4}
    assert found.norms == ("2.weight", "2.bias")


def test_a_weight_behind_a_quantiser_counts_as_itself() -> None:
    program = captured(Chain(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 2, 4)
    simulated = Pipeline.parse("place-quantizers").run(program, calibration=[sample(program, 8)]).program
    assert simulated.stage == "simulated"
    assert len(roles(simulated).weights) == 2
    assert measured(simulated).evidence
