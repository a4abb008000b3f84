"""1 - cos along features, averaged over places and batches."""

from __future__ import annotations

import pytest
import torch
from encoder import Encoder
from float_programs import captured, sample
from fxpress_ir.analysis.blocks import residual_blocks
from fxpress_passes.prune.block_influence import BlockInfluence
from torch import Tensor
from torch.nn import functional


def test_it_is_one_minus_the_cosine() -> None:
    model = Encoder()
    program = captured(model, 2, 6, 4)
    blocks = residual_blocks(program)
    observer, far = BlockInfluence(program, blocks), list[list[Tensor]]([[], []])
    for seed in range(3):
        (x,) = sample(program, 4, seed)
        observer.observe((x,))
        with torch.no_grad():
            y = model.stem(x)
            for found, layer in zip(far, model.layers, strict=True):
                z = layer(y)
                found.append(1 - functional.cosine_similarity(y.double(), z.double(), dim=-1))
                y = z
    wanted = [float(torch.cat(found).mean()) for found in far]
    assert list(observer.found.values()) == pytest.approx(wanted, rel=1e-5)
    assert list(observer.found) == [block.names for block in blocks]
