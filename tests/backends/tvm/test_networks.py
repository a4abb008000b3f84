"""Whole networks, quantised by the passes: both targets give the program's bits at batches other than the example's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import fxpress as fx
import pytest
import torch
from fxpress_ir import Program
from networks import NETWORKS, network


@cache
def quantized(name: str, activation_bits: int = 8) -> Program:
    generator = torch.Generator().manual_seed(7)
    batches = [(torch.randn(8, 3, 32, 32, generator=generator),) for _ in range(2)]
    program = fx.capture(network(name), (batches[0][0][:1],), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    pipeline = fx.Pipeline.parse(f"fold-batch-norm, quantize-dyadic{{integer_only=true, activation_bits={activation_bits}}}")
    return pipeline.run(program, calibration=batches).program


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bits_of_the_program(name: str, same_bits: Callable[..., None]) -> None:
    images = [torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch)) * 2 for batch in (1, 3)]
    same_bits(quantized(name), *([x] for x in images))


@pytest.mark.parametrize("name", ["squeeze-excitation", "unet"])
def test_sixteen_bit_activations(name: str, same_bits: Callable[..., None]) -> None:
    """The networks with products and with transposed convolutions; the others hold the operators of these two."""
    same_bits(quantized(name, 16), [torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2])
