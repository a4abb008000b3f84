"""Scores against their formulas, and the update of optimal brain surgeon against least squares."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured, measured
from fxpress_ir import Program
from fxpress_passes import Context, Sparsify
from fxpress_passes.evidence.gradients import Gradients, samples
from fxpress_passes.prune.layers import Layer, prunable
from fxpress_passes.prune.masks import pattern, share
from fxpress_passes.prune.scores import SCORES, Facts
from fxpress_passes.prune.scores.sparsegpt import sparsegpt
from torch import Tensor, nn


def _facts(alpha: float = 100.0, p: int = 1) -> tuple[Program, Layer, Facts, Context]:
    program = captured(Chain(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)), 2, 3, 4, 4)
    context = measured(program)
    layers = prunable(program, context)
    return program, layers[0], Facts(program, layers, context, alpha=alpha, p=p), context


def _gradients(program: Program, context: Context, statistic: str) -> Tensor:
    observer = Gradients(program, ["0.weight"], statistic)  # type: ignore[arg-type]
    for sample in samples(program, context.evidence.calibration.batches(program), 128):
        observer.observe(sample)
    return observer.found["0.weight"].double()


def test_scores_are_their_formulas() -> None:
    program, layer, facts, context = _facts()
    weight, norms = program.tensors["0.weight"].detach().double(), facts.norms(layer)
    mean, absolute, square = (_gradients(program, context, name) for name in ("mean", "absolute", "square"))
    wanted = {
        "magnitude": weight.abs(),
        "wanda": weight.abs() * norms,
        "gblm": weight.abs() * norms + 100 * weight.abs() * absolute,
        "taylor": (weight * mean).abs(),
        "fisher": weight**2 * square,
    }
    for name, scores in wanted.items():
        torch.testing.assert_close(SCORES[name](layer, facts), scores)
    program, layer, facts, _ = _facts(p=2)
    torch.testing.assert_close(SCORES["gblm"](layer, facts).shape, weight.shape)


def test_random_is_seeded_and_differs_by_layer() -> None:
    program, layer, facts, context = _facts()
    other = prunable(program, context)[1]
    assert torch.equal(SCORES["random"](layer, facts), SCORES["random"](layer, facts))
    assert not torch.equal(SCORES["random"](layer, facts).reshape(-1)[:100], SCORES["random"](other, facts).reshape(-1)[:100])
    context.seed = 1
    assert not torch.equal(SCORES["random"](layer, facts), SCORES["random"](layer, Facts(program, [layer], Context(seed=2))))


@pytest.mark.parametrize("how", [{}, {"pattern": "2:4", "skip_ends": False}, {"compare": "layer", "skip_ends": False}], ids=str)
def test_without_gradients_gblm_gives_wandas_masks_exactly(how: dict[str, object]) -> None:
    net = Chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5))
    program = captured(net, 2, 4, 6, 6)
    one, other = (Sparsify(score=score, alpha=0.0, **how).decide(program, measured(program)) for score in ("gblm", "wanda"))  # type: ignore[arg-type]
    assert one.bits.keys() == other.bits.keys() != set()
    assert all(torch.equal(one.bits[name], other.bits[name]) for name in one.bits)


def _moment(columns: int, seed: int = 0) -> Tensor:
    x = torch.randn(200, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x @ torch.randn(columns, columns, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return x.T @ x / 200


def _error(difference: Tensor, moment: Tensor) -> float:
    return float((difference @ moment * difference).sum())


def test_moved_weights_are_nearer_than_those_that_only_lost_some() -> None:
    moment, weight = _moment(200), torch.randn(6, 200, dtype=torch.float64)
    keep, moved = sparsegpt(weight, moment, lambda scores: share(scores, 0.5))
    assert torch.equal(keep, moved != 0)
    assert 0.45 < 1 - float(keep.double().mean()) < 0.55
    assert _error(moved - weight, moment) < 0.7 * _error(weight * keep - weight, moment)


def test_one_column_that_goes_leaves_the_least_squares_of_the_later_ones() -> None:
    """Removing the first column alone is the classical step: the others become the regression on all of them (but for damping)."""
    moment, weight = _moment(5), torch.randn(3, 5, dtype=torch.float64)
    first = torch.ones(3, 5, dtype=torch.bool)
    first[:, 0] = False
    _, moved = sparsegpt(weight, moment, lambda _: first)
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    exact = weight[:, 1:] + weight[:, :1] @ damped[:1, 1:] @ torch.linalg.inv(damped[1:, 1:])
    torch.testing.assert_close(moved[:, 1:], exact)


def test_a_pattern_is_kept_across_blocks() -> None:
    keep, moved = sparsegpt(torch.randn(3, 264, dtype=torch.float64), _moment(264), lambda scores: pattern(scores, 2, 4), (2, 4))
    assert set((moved.reshape(-1, 4) != 0).sum(1).tolist()) == {2}
    assert torch.equal(keep, moved != 0)


def test_columns_that_only_see_zeros_go() -> None:
    moment = _moment(8)
    moment[3], moment[:, 3] = 0, 0
    _, moved = sparsegpt(torch.randn(4, 8, dtype=torch.float64), moment, lambda scores: share(scores, 0.25))
    assert not bool(moved[:, 3].any())


def test_a_moment_that_is_not_positive_definite_is_an_error() -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        sparsegpt(torch.randn(2, 4, dtype=torch.float64), torch.full((4, 4), torch.nan, dtype=torch.float64), lambda scores: scores > 0)
