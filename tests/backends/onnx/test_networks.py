"""Whole networks, quantised by the passes: both flavours give the program's bits at batches other than the example's."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import fxpress as fx
import pytest
import torch
from fxpress_ir import Program
from onnx_cases import Check

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from networks import NETWORKS, network

QUANTIZE = "fold-batch-norm, quantize-dyadic{integer_only=true, weight_bits=%d, activation_bits=%d}"


@cache
def quantized(name: str, bits: int, activation_bits: int = 8) -> Program:
    generator = torch.Generator().manual_seed(7)
    batches = [(torch.randn(8, 3, 32, 32, generator=generator),) for _ in range(2)]
    program = fx.capture(network(name), (batches[0][0][:1],), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    return fx.Pipeline.parse(QUANTIZE % (bits, activation_bits)).run(program, calibration=batches).program


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_bits_of_the_program(same_bits: Check, name: str, batch: int) -> None:
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch)) * 2
    same_bits(quantized(name, 8), x)


@pytest.mark.parametrize("bits", [4, 2])
def test_narrow_weights(same_bits: Check, bits: int) -> None:
    same_bits(quantized("unet", bits), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("name", NETWORKS)
def test_sixteen_bit_activations(same_bits: Check, name: str) -> None:
    same_bits(quantized(name, 8, 16), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2)
