"""Layers with quantised weights are found with the grids around them; what shares a weight counts once."""

from __future__ import annotations

import torch
from float_programs import Chain, captured, refusals
from fxpress_ir.ops import arguments
from fxpress_passes import Context
from fxpress_passes.reconstruct.layers import layers_of, source_of
from low_bits import every_kind, simulated
from quantized import LayerTwice, two_paths
from torch import nn


def test_every_kind_is_found_with_its_grids() -> None:
    program = simulated(every_kind(), 3)
    layers = layers_of(program, Context())
    assert [layer.node.target._opname for layer in layers] == [*["conv2d"] * 3, "conv_transpose2d", "conv2d", *["linear"] * 2]
    assert [layer.axis for layer in layers] == [0, 0, 0, 1, 0, 0, 0]
    assert {layer.most for layer in layers} == {3}
    assert [layer.bias is None for layer in layers] == [True, *[False] * 6]
    for layer in layers:
        source = source_of(layer.node)
        assert source is not None
        assert layer.source is not None
        assert layer.source.scale == arguments(source)["scale"]
        assert layer.target is not None
    assert [layer.target.is_short for layer in layers if layer.target] == [False] * 6 + [True]


def test_a_result_that_is_read_twice_has_its_own_grid() -> None:
    """Not the one behind its ReLU."""
    program = simulated(two_paths(), 4)
    for layer in layers_of(program, Context()):
        (after,) = layer.node.users
        after = after if "fake_quantize" in str(after.target) else next(iter(after.users))
        assert layer.target is not None
        assert layer.target.scale == arguments(after)["scale"]


def test_a_shared_weight_counts_once_and_its_scales_are_not_free() -> None:
    program = simulated(captured(LayerTwice(), 1, 4), 4)
    (layer,) = layers_of(program, Context())
    assert [reader.name for reader in layer.readers()] == [layer.name, layer.sharing[0].name]
    assert layer.target is None


def test_a_float_program_has_none() -> None:
    assert layers_of(every_kind(), Context()) == []


def test_a_computed_bias_is_refused() -> None:
    program = captured(Chain(nn.Linear(4, 3)), 1, 4)
    edit = simulated(program, 4).edit()
    (node,) = [node for node in edit.graph.nodes if node.target is torch.ops.aten.linear.default]
    with edit.graph.inserting_before(node):
        doubled = edit.call(torch.ops.aten.mul.Tensor, node.args[2], 2.0)
    node.args = (*node.args[:2], doubled)
    context = Context()
    assert layers_of(edit.finish(), context) == []
    assert refusals(context) == [f"{node.name}: its bias is computed; run fold-constants first"]
