"""Spreads of batches merge to that of their union, whichever comes first; channels lie along any axis."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from float_programs import Chain, captured
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.spread import Spread
from torch import Tensor, nn


def _values(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1.0, 10.0, 0.0, 0.1]) + 3


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_batches_merge_to_their_union(order: tuple[int, ...]) -> None:
    batches = [_values(rows, seed) for seed, rows in enumerate((1, 7, 32))]
    merged = reduce(Spread.merge, (Spread.of(batches[place], 1) for place in order))
    whole = torch.cat(batches).double()
    assert merged.count == 40
    np.testing.assert_allclose(merged.mean, whole.mean(0).numpy(), rtol=1e-6)  # each batch is summed in float32
    np.testing.assert_allclose(merged.variance, whole.var(0, correction=0).numpy(), rtol=1e-5, atol=1e-12)


def test_the_channels_of_an_image_are_its_second_axis() -> None:
    image = _values(6, 3).T.reshape(1, 4, 2, 3)
    found, rows = Spread.of(image, 1), Spread.of(_values(6, 3), -1)
    assert found.count == rows.count == 6
    np.testing.assert_allclose(found.squares, rows.squares)


def test_layers_keep_theirs_and_nothing_else_does() -> None:
    program = captured(Chain(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)), 2, 2, 2, 2)
    x = torch.randn(8, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    evidence = Evidence(Calibration([(x[:5],), (x[5:],)]))
    ranges = evidence.ranges(program)
    kept = {name: (fact.spread.count, len(fact.spread.mean)) for name, fact in ranges.items() if fact.spread is not None}
    assert kept == {"conv2d": (32, 3), "linear": (8, 5)}
    spread = evidence.histograms(program)["linear"].range("percentile").spread
    assert spread is not None
    np.testing.assert_allclose(spread.variance, program.run(x)[0].double().var(0, correction=0).detach().numpy(), rtol=1e-4)
