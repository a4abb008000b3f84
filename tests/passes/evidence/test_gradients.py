"""Statistics of gradients over samples, against autograd one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence.gradients import Gradients, Statistic, own_cross_entropy, samples
from torch import Tensor, nn
from torch.nn import functional


def _net() -> nn.Sequential:
    return Chain(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def _by_hand(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = []
    for row in x.split(1):
        net.zero_grad()
        scores = net(row)
        functional.cross_entropy(scores, scores.argmax(1)).backward()
        gradient = net[0].weight.grad
        assert isinstance(gradient, Tensor)
        found.append(gradient.clone())
    return found


@pytest.mark.parametrize("statistic", ["mean", "absolute", "square"])
def test_the_statistic_is_that_of_single_samples(statistic: Statistic) -> None:
    net, x = _net(), torch.randn(6, 4)
    program = captured(net, 2, 4)
    observer = Gradients(program, ["0.weight"], statistic)
    for sample in samples(program, [(x[:4],), (x[4:],)], 128):
        observer.observe(sample)
    function = {"mean": lambda g: g, "absolute": torch.abs, "square": torch.square}[statistic]
    torch.testing.assert_close(observer.found["0.weight"], torch.stack([function(g) for g in _by_hand(net, x)]).mean(0))
    assert observer.samples == 6


def test_two_walks_merge_into_one() -> None:
    program, x = captured(_net(), 2, 4), torch.randn(6, 4)
    parts = [Gradients(program, ["0.weight"], "square") for _ in range(3)]
    for observer, rows in zip(parts, (x, x[:2], x[2:]), strict=True):
        for sample in samples(program, [(rows,)], 128):
            observer.observe(sample)
    parts[1].merge(parts[2])
    torch.testing.assert_close(parts[1].found, parts[0].found)


def test_samples_end_where_enough_are_taken() -> None:
    program = captured(_net(), 2, 4)
    assert [len(sample[0]) for sample in samples(program, [(torch.zeros(4, 4),)] * 3, 5)] == [1] * 5


def test_a_loss_of_the_users_is_taken() -> None:
    def energy(outputs: Sequence[Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        return outputs[0].square().sum() / len(batch[0])

    net, x = _net(), torch.randn(5, 4)
    observer = Gradients(captured(net, 2, 4), ["2.bias"], "mean", energy)
    observer.observe((x,))
    torch.testing.assert_close(observer.found["2.bias"], 2 * net(x).mean(0).detach())


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    observer = Gradients(captured(_net(), 2, 4), ["2.bias"], "mean", lambda outputs, _: outputs[0])
    with pytest.raises(CalibrationError, match="no scalar"):
        observer.observe((torch.randn(2, 4),))
    with pytest.raises(CalibrationError, match="no output has scores"):
        own_cross_entropy([torch.zeros(3, dtype=torch.int64)], ())
