"""Layers are asked in order, with what the layers before them became, or with what the float program gives."""

from __future__ import annotations

import pytest
import torch
from float_programs import sample
from fxpress_ir.ops import arguments
from fxpress_passes import Context
from fxpress_passes.reconstruct.layers import Layer, layers_of
from fxpress_passes.reconstruct.walk import Decided, Pairs, layer_errors, walk
from low_bits import data, every_kind, simulated
from quantized import values
from torch import Tensor

_fxp = torch.ops.fxp


def _walked(decided: str, *, sequential: bool) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """What each layer was asked with; the layer of this name gets a weight of zeros and a bias of ones."""
    program, seen = simulated(every_kind(), 3), dict[str, list[tuple[Tensor, Tensor]]]()

    def decide(layer: Layer, pairs: Pairs) -> Decided:
        seen[layer.name] = list(pairs())
        if layer.name != decided:
            return {}
        weight = program.tensors[layer.weight].detach()
        return {layer.name: (torch.zeros_like(weight), torch.ones(len(weight)))}

    batches = list(data(program).evidence.calibration.batches(program))
    walk(program, program, batches, layers_of(program, Context()), decide, sequential=sequential)
    return seen


@pytest.mark.parametrize("sequential", [True, False])
def test_inputs_are_quantised_and_results_are_float(sequential: bool) -> None:
    program, float_program = simulated(every_kind(), 3), every_kind()
    (x,) = sample(program, 32, 1)
    wanted, found = values(float_program, x), values(program, x)
    for layer in layers_of(program, Context()):
        inputs, results = _walked("", sequential=sequential)[layer.name][1]
        source = arguments(layer.node)["input"]
        assert torch.equal(results, wanted[layer.name])
        if sequential:
            assert torch.equal(inputs, found[source.name])
        else:
            site = arguments(next(node for node in float_program.graph.nodes if node.name == layer.name))["input"]
            assert layer.source is not None
            assert torch.equal(inputs, _fxp.fake_quantize(wanted[site.name], layer.source.scale, layer.source.qmin, layer.source.qmax))


def test_what_is_decided_reaches_the_later_layers_of_a_sequential_walk_alone() -> None:
    for sequential in (True, False):
        before, after = (_walked(name, sequential=sequential) for name in ("", "conv2d_1"))
        moved = [name for name in before if not torch.equal(before[name][0][0], after[name][0][0])]
        assert moved == (list(before)[2:] if sequential else [])
        assert all(torch.equal(before[name][0][1], after[name][0][1]) for name in before)


def test_errors_are_those_of_the_results() -> None:
    program, (x,) = simulated(every_kind(), 3), sample(every_kind(), 8, 1)
    wanted, found = values(every_kind(), x), values(program, x)
    errors = layer_errors(program, program, [(x,)], ["conv2d_1", "linear"])
    for name, error in errors.items():
        assert error == pytest.approx(float((found[name] - wanted[name]).square().sum() / wanted[name].square().sum()), rel=1e-5)
