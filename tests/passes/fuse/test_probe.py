"""A probe gives what nodes give, with and without a block, and nothing else runs in it."""

from __future__ import annotations

import pytest
import torch
from encoder import Encoder
from float_programs import ResidualNet, captured, sample
from fxpress_ir.analysis.blocks import residual_blocks
from fxpress_ir.slicing import remove_blocks
from fxpress_passes.fuse.probe import features, probe, tensor_readers, vectors, weights


def test_it_gives_the_values_of_nodes_and_computes_no_more() -> None:
    program = captured(Encoder(depth=3), 2, 6, 4)
    first, second, third = residual_blocks(program)
    x = sample(program, 3)
    module = probe(program, [first.output.name, second.output.name])
    assert not set(module.graph.nodes) & set(program.graph.nodes)
    assert third.output.name not in {node.name for node in module.graph.nodes}
    (whole,) = probe(program, [program.outputs()[0].name])(*x)
    assert torch.equal(whole, program.run(*x)[0])
    assert not whole.requires_grad


@pytest.mark.parametrize("place", [0, 1])
def test_without_a_block_it_is_the_program_without(place: int) -> None:
    program = captured(Encoder(depth=2), 2, 6, 4)
    blocks = residual_blocks(program)
    x = sample(program, 3)
    (found,) = probe(program, [program.outputs()[0].name], without=blocks[place])(*x)
    assert torch.equal(found, remove_blocks(program, [blocks[place]]).run(*x)[0])
    (end,) = probe(program, [blocks[place].output.name], without=blocks[place])(*x)
    assert torch.equal(end, probe(program, [blocks[place].input.name])(*x)[0])


def test_features_are_channels_of_images_and_the_last_dimension_of_tokens() -> None:
    nets = (ResidualNet(), (1, 3, 8, 8)), (Encoder(), (2, 6, 4))
    image, token = (residual_blocks(captured(net, *shape))[0] for net, shape in nets)
    assert (features(image), features(token)) == (1, -1)
    value = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert vectors(value, 1).shape == (12, 2)
    assert torch.equal(vectors(value, 1)[0], value[0, :, 0, 0].double())


def test_weights_and_who_reads_them() -> None:
    program = captured(Encoder(), 2, 6, 4)
    block = residual_blocks(program)[0]
    found = [(weight, bias) for _, weight, bias in weights(block)]
    assert found == [(f"layers.0.{name}.weight", f"layers.0.{name}.bias") for name in ("query", "key", "value", "out", "up", "down")]
    readers = tensor_readers(program)
    assert [node.name for node in readers["layers.0.query.weight"]] == [block.layers[0].name]
    assert readers.keys() == program.tensors.keys()
