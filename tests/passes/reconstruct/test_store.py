"""A fitted layer's tensors go where its quantiser reads them; what others read of them stays as it was."""

from __future__ import annotations

import torch
from float_programs import captured, measured
from fxpress_ir import Program, verify
from fxpress_passes import Context, PlaceQuantizers
from fxpress_passes.reconstruct.fit import Fitted
from fxpress_passes.reconstruct.layers import layers_of
from fxpress_passes.reconstruct.store import store
from low_bits import codes, every_kind, simulated
from quantized import LayerTwice
from torch import Tensor, nn
from torch.nn import functional


class Tied(nn.Module):
    """A table whose rows are also the last layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.relu(self.table(x.long().abs() % 10)), self.table.weight)


def _stored(program: Program, fitted: Fitted, place: int = 0) -> tuple[Program, dict[str, tuple[Tensor, Tensor | None]]]:
    edit = program.edit()
    layer = layers_of(program, Context())[place]
    decided = dict(store(edit, layer, fitted))
    result = edit.finish()
    verify(result)
    return result, decided


def test_integers_come_back_exactly_and_the_weight_keeps_its_name() -> None:
    program = simulated(every_kind(), 3)
    layer = layers_of(program, Context())[3]
    scales = program.tensors[layer.scale] * 1.37
    integers = torch.randint(-3, 4, program.tensors[layer.weight].shape).float()
    weight = integers * scales.float().reshape(1, -1, 1, 1)
    result, decided = _stored(program, Fitted(weight, scales, torch.ones(4), 1.0, 0.5, 0), 3)
    assert torch.equal(codes(result)[layer.quantizer.name], integers)
    assert set(result.tensors) == set(program.tensors)
    assert torch.equal(result.tensors[str(layer.bias)], torch.ones(4))
    assert torch.equal(decided[layer.name][0], weight)
    others = [name for name in codes(program) if name != layer.quantizer.name]
    assert all(torch.equal(codes(result)[name], codes(program)[name]) for name in others)


def test_nothing_to_store_gives_what_there_is() -> None:
    program = simulated(every_kind(), 3)
    result, decided = _stored(program, Fitted(None, None, None, 1.0, 1.0, 0))
    ((weight, bias),) = decided.values()
    assert bias is None
    assert result.hash == program.hash
    (node,) = [node for node in program.graph.nodes if node.name == layers_of(program, Context())[0].quantizer.name]
    assert weight.shape == node.meta["val"].shape


def test_layers_that_share_a_weight_share_it_afterwards_and_keep_their_biases() -> None:
    program = simulated(captured(LayerTwice(), 1, 4), 4)
    (layer,) = layers_of(program, Context())
    before = program.tensors[layer.weight].detach()
    result, decided = _stored(program, Fitted(torch.zeros_like(before), None, torch.ones(4), 1.0, 0.5, 0))
    assert all(not integers.any() for integers in codes(result).values())
    old, new = decided[layer.sharing[0].name][1], decided[layer.name][1]
    assert old is not None
    assert new is not None
    assert torch.equal(new, torch.ones(4))
    assert torch.equal(old, program.tensors[str(layer.bias)].detach())


def test_a_table_that_is_a_layers_weight_stays_a_table() -> None:
    program = captured(Tied(), 1, 5)
    placed = PlaceQuantizers(weight_bits=4, edge_bits=4).apply(program, measured(program))
    (layer,) = layers_of(placed, Context())
    weight = placed.tensors[layer.weight].detach()
    result, _ = _stored(placed, Fitted(torch.zeros_like(weight), None, None, 1.0, 0.5, 0))
    assert torch.equal(result.tensors[layer.weight], weight)
    assert not codes(result)[layer.quantizer.name].any()
