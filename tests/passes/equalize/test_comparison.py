"""Rotations judged by what quantising does to the results of layers."""

from __future__ import annotations

import pytest
import torch
from decoders import decoder, prepared
from float_programs import captured, sample
from fxpress_ir import Program
from fxpress_passes.equalize.comparison import Comparison, input_of
from fxpress_passes.equalize.error import error, powers, rounding
from fxpress_passes.equalize.factors import Observer
from fxpress_passes.equalize.hadamard import hadamard
from fxpress_passes.equalize.residual import Residual, residuals
from torch import Tensor, fx, nn

WIDE = torch.tensor([8.0, *[1.0] * 7])


def _part(size: int) -> Tensor:
    return hadamard(size, torch.Generator().manual_seed(0))


def _comparison(program: Program, activation_bits: int = 8, weight_bits: int = 8) -> tuple[Comparison, list[fx.Node]]:
    layers = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    norms = [node for node in program.graph.nodes if node.target in (torch.ops.aten.rms_norm.default, torch.ops.aten.layer_norm.default)]
    observer = Observer(program, frozenset(input_of(node).name for node in layers + norms))
    for seed in range(4):
        observer.observe(sample(program, 16, seed))
    return Comparison(program, {name: found.rows for name, found in observer.found.items()}, activation_bits, weight_bits), layers


def test_without_a_matrix_it_is_the_layers_own_error() -> None:
    program = captured(nn.Linear(8, 5), 2, 8)
    comparison, layers = _comparison(program)
    rows, weight = comparison.seen[input_of(layers[0]).name], program.tensors["weight"].detach()
    assert comparison.readers(layers)(None) == error(rows, [weight], powers(rows, [weight]), 8, 8)


@pytest.mark.parametrize("bits", [(4, 8), (8, 16)])
def test_a_wide_channel_is_worse_without(bits: tuple[int, int]) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.tanh() * WIDE)

    comparison, layers = _comparison(captured(Wide(), 2, 8), *bits)
    compare = comparison.readers(layers)
    assert compare(_part(8)) < compare(None) / 2
    assert compare(_part(2)) > compare(_part(8))


def test_a_rounded_layer_in_front_counts_as_far_as_it_is_read() -> None:
    """Rows that differ in width have steps that differ; a matrix over them costs what reads the narrow ones."""
    first, second = nn.Linear(8, 8), nn.Linear(8, 5)
    first.weight.data *= WIDE[:, None]
    second.weight.data /= WIDE
    comparison, (producer, reader) = _comparison(captured(nn.Sequential(first, second), 2, 8), 16, 4)
    whole, alone = comparison.path(producer, torch.arange(8), [reader]), comparison.readers([reader])
    costs = [whole(part) - alone(part) for part in (None, _part(8))]
    rows, weight, behind = comparison.seen[input_of(producer).name], first.weight.detach(), second.weight.detach()
    expected = ((rows @ rounding(weight, 4).T) @ behind.T).square().mean() / powers(comparison.seen[input_of(reader).name], [behind])[0]
    assert costs[0] == pytest.approx(float(expected), rel=1e-4)
    assert costs[1] > 2 * costs[0]


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
def test_a_stream_with_a_wide_channel_is_worse_without(norm: type[nn.Module]) -> None:
    program = prepared(decoder, norm)
    (stream,) = residuals(program)
    assert isinstance(stream, Residual)
    comparison, _ = _comparison(program, 4)
    compare = comparison.residual(stream)
    assert compare(_part(32)) < 0.8 * compare(None)
