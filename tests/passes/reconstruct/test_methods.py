"""Every method leaves integers of its layer's grid with less error than rounding to nearest; what each is about holds exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from float_programs import Chain, captured
from fxpress_passes.reconstruct.matrix import Matrix
from fxpress_passes.reconstruct.methods import METHODS
from fxpress_passes.reconstruct.methods import gptq as gptq_module
from fxpress_passes.reconstruct.methods.gptq import ORDERS, gptq
from fxpress_passes.reconstruct.methods.task import How, Task
from fxpress_passes.reconstruct.quadratic import Quadratic
from torch import Tensor, nn


def _task(bits: int = 3, *, convolution: bool = False, free: bool = True, how: How | None = None) -> Task:
    """A linear layer of 20 inputs that go together, or a convolution in two groups; a tenth of the weights is zero."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 6, 3, groups=2) if convolution else nn.Linear(20, 6)
    program = captured(Chain(layer), *((1, 8, 5, 5) if convolution else (1, 20)))
    node = next(node for node in program.graph.nodes if node.op == "call_function")
    weight = layer.weight.detach().where(torch.rand(layer.weight.shape) > 0.1, 0.0)
    matrix, most = Matrix(node, weight), (1 << (bits - 1)) - 1
    wide = matrix.of(weight.double())
    mixed = torch.randn(matrix.groups, matrix.columns, matrix.columns) / 2
    x = torch.randn(matrix.groups, 400, matrix.columns) @ mixed + 0.3
    y = x @ wide.transpose(1, 2).float() + 0.05 * torch.randn(matrix.groups, 400, matrix.rows)
    scales = (wide.abs().amax(2).reshape(-1) / most).float().double()
    codes = (wide / matrix.expand(scales)).round()
    error = Quadratic.of(wide, None, [(x, y)], takes_mean=True)
    return Task(error, matrix, codes, scales, most, wide != 0, free, how or How(steps=40))


def _errors(task: Task, codes: Tensor, scales: Tensor) -> Tensor:
    return task.error.errors(codes * task.matrix.expand(scales))


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.falls and method.moves])
def test_it_leaves_less_error_than_rounding_to_nearest(name: str, bits: int, convolution: bool) -> None:
    task = _task(bits, convolution=convolution)
    found = METHODS[name].learn(task)
    assert torch.equal(found.codes, found.codes.round().clamp(-task.most, task.most))
    assert bool((found.codes[~task.kept] == 0).all())
    assert bool((found.scales > 0).all())
    before, after = _errors(task, task.codes, task.scales), _errors(task, found.codes, found.scales)
    assert float(after.sum()) < 0.9 * float(before.sum())


@pytest.mark.parametrize("name", ["adaquant", "flexround"])
def test_scales_stay_where_they_are_not_free_or_not_asked_for(name: str) -> None:
    short = How(steps=20)
    for task in (_task(free=False, how=short), _task(how=replace(short, step_sizes=False))):
        assert torch.equal(METHODS[name].learn(task).scales, task.scales)
    assert not torch.equal(METHODS[name].learn(_task(how=short)).scales, _task().scales)


@pytest.mark.parametrize("name", ["adaquant", "flexround"])
def test_a_layer_of_one_scale_keeps_one(name: str) -> None:
    task = _task(4)
    task = replace(task, scales=task.scales.amax().expand_as(task.scales).clone())
    task = replace(task, codes=(task.error.weight / task.steps).round())
    found = METHODS[name].learn(task)
    assert len(set(found.scales.tolist())) == 1
    assert found.scales[0] != task.scales[0]
    assert float(_errors(task, found.codes, found.scales).sum()) < float(_errors(task, task.codes, task.scales).sum())


def test_adaround_rounds_down_or_up() -> None:
    task = _task(3)
    exact = task.error.weight / task.steps
    found = METHODS["adaround"].learn(task).codes
    assert bool(((found == exact.floor()) | (found == exact.ceil()))[task.kept].all())


def test_adaquant_may_leave_the_two_integers_that_a_weight_lies_between() -> None:
    """With one column alone, what the layers before have lost is made up for by as many steps as it takes."""
    task = _task(3, free=False)
    far = -2.0 * task.steps.expand_as(task.error.weight)
    error = replace(task.error, moment=torch.eye(20).double()[None], crossed=far, constant=far.square().sum(2))
    found = METHODS["adaquant"].learn(replace(task, error=error, kept=torch.ones_like(task.kept)))
    exact = error.weight / task.steps
    assert bool(((found.codes - exact).abs() > 1).any())
    assert float((found.codes == (exact + 2).round().clamp(-3, 3)).double().mean()) > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_training_is_the_same_every_time(name: str) -> None:
    first, second = (METHODS[name].learn(_task(2, how=How(steps=20))) for _ in range(2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scales, second.scales)


def test_statistics_match_spreads_and_bias_leaves_all_as_it_is() -> None:
    task = _task(2)
    found = METHODS["statistics"].learn(task)
    assert torch.equal(found.codes, task.codes)
    assert torch.allclose(task.error.spread_of(found.codes * task.matrix.expand(found.scales)), task.error.spread)
    assert torch.equal(METHODS["statistics"].learn(replace(task, free=False)).scales, task.scales)
    same = METHODS["bias"].learn(task)
    assert same.codes is task.codes
    assert same.scales is task.scales


def test_a_channel_that_does_not_vary_keeps_its_scale() -> None:
    task = _task(2)
    codes = task.codes.clone()
    codes[:, 1] = 0
    found = METHODS["statistics"].learn(replace(task, codes=codes)).scales
    assert found[1] == task.scales[1]
    assert bool(found.isfinite().all())


def _surgeon(weight: Tensor, moment: Tensor, steps: Tensor, most: int, kept: Tensor) -> Tensor:
    """Optimal brain surgery, one column at a time, with the inverse of what is left made anew each time."""
    weight, codes = weight.clone(), torch.zeros_like(weight)
    for column in range(weight.shape[1]):
        inverse = torch.linalg.inv(moment[column:, column:])
        codes[:, column] = (weight[:, column] / steps[:, 0]).round().clamp(-most, most) * kept[:, column]
        error = (weight[:, column] - codes[:, column] * steps[:, 0]) / inverse[0, 0]
        weight[:, column:] -= error[:, None] * inverse[0]
    return codes


@pytest.mark.parametrize("order", ORDERS)
def test_gptq_is_optimal_brain_surgery_in_blocks(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq_module, "BLOCK", 7)
    task = _task(3, convolution=True)
    for group in range(2):
        weight, moment = task.error.weight[group], task.error.damped(0.01)[group]
        places = torch.arange(len(moment)) if order == "natural" else moment.diagonal().argsort(descending=True)
        parts = (weight[:, places], moment[places][:, places], task.steps[group], task.most, task.kept[group][:, places])
        found = gptq(weight, moment, task.steps[group], task.most, task.kept[group], order)
        assert torch.equal(found[:, places], _surgeon(*parts))


def test_gptq_refuses_a_moment_that_is_none() -> None:
    moment = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="not positive definite"):
        gptq(torch.ones(1, 2).double(), moment, torch.ones(1, 1).double(), 3, torch.ones(1, 2, dtype=torch.bool))
