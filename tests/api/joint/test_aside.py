"""Every fourth batch is set aside: training does not see it, and programs are judged by it alone."""

from __future__ import annotations

import pytest
import torch
from fxpress.joint.aside import Judge
from fxpress_ir import Program, capture
from fxpress_passes.evidence import Calibration
from torch import Tensor, nn


def distance(original: Tensor, other: Tensor) -> Tensor:
    return (original - other).abs().mean()


def linear(weight: float) -> Program:
    net = nn.Linear(2, 1, bias=False).eval()
    with torch.no_grad():
        net.weight.fill_(weight)
    return capture(net, (torch.zeros(3, 2),))


def data(count: int) -> list[tuple[Tensor]]:
    return [(torch.full((3, 2), float(place)),) for place in range(count)]


@pytest.mark.parametrize(("count", "seen", "mean"), [(8, [0, 1, 2, 4, 5, 6], 5.0), (4, [0, 1, 2], 3.0), (3, [0, 1, 2], 1.0)])
def test_what_is_aside_is_not_trained_on(count: int, seen: list[int], mean: float) -> None:
    judge = Judge(linear(1.0), Calibration(data(count)), distance)
    for _ in range(2):
        assert [int(batch[0][0, 0]) for batch in judge.training.batches(linear(1.0))] == seen
    assert judge.loss(linear(1.5)) == pytest.approx(2 * 0.5 * mean)
    assert judge.loss(linear(1.0)) == 0
