"""A recognised node and integer operands become integer operators; what has none is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from fxpress_passes.quantize.emit import Emitter
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.recognized import Recognized
from fxpress_passes.quantize.scales import Grid
from quantized import exactly, targets
from torch import Tensor, fx, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
S8, U8 = Grid(0.5, -128, 127), Grid(0.5, 0, 255)


def _emitter(body: nn.Module) -> tuple[Emitter, dict[str, fx.Node]]:
    program = captured(body, 1, 4, 6, 6)
    edit = program.edit()
    return Emitter(edit, recognize(edit.graph)), {node.name: node for node in edit.graph.nodes}


def test_a_border_quantizes_a_float() -> None:
    emitter, nodes = _emitter(Chain(nn.ReLU()))
    with emitter.edit.graph.inserting_after(nodes["x"]):
        value = emitter.border(nodes["x"], U8)
    assert (value.node.target, value.grid) == (_fxp.quantize.default, U8)
    assert value.node.args == (nodes["x"], 0.5, 0, 255, torch.uint8)


@pytest.mark.parametrize("kind", ["maximum", "move", "split", "select", "pad"])
def test_what_keeps_its_scale_cannot_be_quantized_anew(kind: str) -> None:
    emitter, nodes = _emitter(Chain(nn.MaxPool2d(2)))
    with pytest.raises(PassError) as caught:
        emitter.emit(nodes["max_pool2d"], Recognized(kind, (nodes["x"],)), [], S8)
    assert str(caught.value) == f"to-integer, node max_pool2d: a {kind} cannot be quantised anew; quantise its input"


def _constants(body: nn.Module, *shape: int) -> dict[str, Tensor]:
    return dict(exactly(body, *shape).integer.tensors)


def test_a_transposed_weight_is_flipped_within_its_groups() -> None:
    layer = nn.ConvTranspose2d(4, 6, (1, 2), (1, 2), groups=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 25.0).reshape(4, 3, 1, 2))
    (weight,) = [tensor for name, tensor in _constants(layer).items() if name.endswith(".int8")]
    assert tuple(weight.shape) == (6, 2, 1, 2)
    # output 0 reads inputs 0 and 1 (weights 1, 2 and 7, 8), output 3 inputs 2 and 3 (weights 13, 14 and 19, 20)
    scale = 20 / 127
    for output, expected in ((0, [[2, 1], [8, 7]]), (3, [[14, 13], [20, 19]])):
        assert np.allclose(weight[output, :, 0].numpy() * scale, expected, atol=scale)


def test_the_factors_of_a_transposed_convolution_repeat_for_each_group() -> None:
    constants = _constants(nn.ConvTranspose2d(4, 6, 2, 2, groups=2))
    (b,) = [tensor for name, tensor in constants.items() if name.endswith(".multiplier")]
    assert torch.equal(b[:3], b[3:])
    assert len(set(b.tolist())) == 3


def test_nothing_is_spread_by_a_stride_of_one() -> None:
    assert targets(exactly(nn.ConvTranspose2d(4, 2, 3)).integer) == ["conv2d", "requantize"]


def test_parts_of_one_scale_and_type_are_joined_as_they_are() -> None:
    stages = exactly(lambda x: torch.cat([functional.relu(x), x.sigmoid(), x.square().transpose(2, 3)], 1))
    assert targets(stages.integer) == ["lut", "lut", "lut", "transpose", "concat"]


def test_the_rank_that_an_average_drops_is_dropped_after_it() -> None:
    assert targets(exactly(lambda x: x.mean((2, 3))).integer) == ["sum_pool2d", "requantize", "flatten"]
    assert targets(exactly(lambda x: x.mean((2, 3), True)).integer) == ["sum_pool2d", "requantize"]


def test_every_operator_is_named_after_what_it_came_from() -> None:
    stages = exactly(lambda x: torch.cat([functional.avg_pool2d(x, 3, 1, 1), x], 1))
    names = [node.name for node in stages.integer.graph.nodes if node.op == "call_function"]
    assert names == ["quantize_default", "avg_pool2d_sum", "avg_pool2d_out", "avg_pool2d_out_aligned", "cat_out", "dequantize_default"]
    (cat,) = stages.integer.graph.find_nodes(op="call_function", target=_fxp.concat.default)
    assert [str(part) for part in arguments(cat)["xs"]] == ["avg_pool2d_out_aligned", "quantize_default"]
    assert cat.meta["provenance"] == "cat"
