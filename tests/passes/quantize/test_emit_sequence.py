"""Operators of transformers: constants on their grids, s8 where u8 is not taken, snapped products, names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from blocks import ready, seen
from float_programs import Function, captured, measured
from fxpress_ir.errors import PassError
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.quantize.emit_sequence import SEQUENCES
from fxpress_passes.quantize.place_quantizers import place
from quantized import quantized, targets
from torch import Tensor, nn
from torch.nn import functional


def test_the_kinds_that_transformers_add() -> None:
    assert SEQUENCES.keys() == {"matmul", "softmax", "attention", "normalize", "rotary", "embedding", "constant"}


def test_a_constant_is_stored_on_its_grid() -> None:
    """[-2, 2] in 8 bits, and in 16 where a norm reads it."""
    for body, name, dtype, most in (
        (lambda x, c: x + c, "image.8", torch.int8, 127),
        (lambda x, c: functional.layer_norm(x + c, (6,)), "image.16", torch.int16, 16384),
    ):
        program = captured(Constant(body), 1, 4, 6, 6)
        stored = quantized(program).integer.tensors[name]
        assert stored.dtype == dtype
        assert int(stored.min()) + int(stored.max()) == 0
        assert int(stored.max()) == most
        assert torch.allclose(stored / most * 2, program.tensors["image"].detach(), atol=2 / most)


class Constant(nn.Module):
    def __init__(self, body: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.image = body, nn.Parameter(torch.linspace(-2, 2, 144).reshape(4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.image)


def test_only_the_operators_that_take_no_u8_get_s8() -> None:
    def emitted(body: Callable[[Tensor], Tensor]) -> list[str]:
        return targets(quantized(captured(Function(body), 1, 2, 4, 4)).integer)

    assert emitted(lambda x: x.relu().softmax(-1)) == ["lut", "requantize", "softmax"]
    assert emitted(lambda x: x.tanh().softmax(-1)) == ["lut", "softmax"]
    assert emitted(lambda x: x.relu() @ x.sigmoid()) == ["lut", "lut", "matmul", "requantize"]


def test_a_product_of_matrices_that_is_not_snapped_is_an_error() -> None:
    program = captured(Function(lambda x: x @ x.transpose(2, 3)), 1, 2, 4, 4)
    plan = PlaceQuantizers().decide(program, measured(program))
    grid = plan.activations["matmul"]
    changed = replace(plan, activations={**plan.activations, "matmul": replace(grid, scale=1.001 * grid.scale)})
    with pytest.raises(PassError) as caught:
        ToInteger().apply(place(program, changed), Context())
    assert str(caught.value) == ("to-integer, node matmul: its scales are not snapped to dyadics; snap scales again after changing them")


def test_operators_of_a_transformer_are_named_after_what_they_came_from() -> None:
    integer = quantized(ready("post-norm"), seen("post-norm"), integer_only=True).integer
    names = {node.name for node in integer.graph.nodes}
    assert {"layer_norm_unit", "layer_norm_out", "layer_norm_out_1", "quantize_default_aligned", "matmul_default_1_out"} <= names
    tensors = {"layer_norm.gain", "layer_norm.shift", "layer_norm.gain_1", "x_q_q.multiplier", "matmul_default_1.exponentials"}
    assert tensors <= integer.tensors.keys()
