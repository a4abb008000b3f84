"""benchmarks/seeds.py: draws are the seed's and of training data, losses are those of the labels, verdicts those of intervals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from fxpress.zoo.digits_cnn import digits
from seeds import SEEDS, Model, Spread
from torch.nn import functional


def test_draws_are_the_seeds_and_hold_training_images_once() -> None:
    model = Model.of("digits-cnn")
    one, again, other = (torch.cat([batch[0] for batch in model.drawn(seed, 31)]) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    train, order = digits().train[0].flatten(1), one.flatten(1)
    distances = torch.cdist(order, train)
    assert float(distances.min(1).values.max()) == 0
    assert len(one) == 31 * 32
    assert len(order.unique(dim=0)) >= len(train.unique(dim=0)) - 8


def test_the_loss_is_that_of_the_labels() -> None:
    model = Model.of("digits-vit")
    images, labels = model.entry.held_out
    exact = functional.cross_entropy(model.program.run(images)[0], labels)
    assert model.loss(model.program.run) == pytest.approx(float(exact), rel=1e-5)
    assert len(SEEDS) >= 3


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [((3, 4), (1, 2), "better"), ((1, 2), (3, 4), "worse"), ((1, 3), (2, 4), "tie"), ((2,), (2,), "tie"), ((1, 5), (2, 3), "tie")],
)
def test_intervals_decide(one: tuple[float, ...], other: tuple[float, ...], verdict: str) -> None:
    opposite = {"better": "worse", "worse": "better", "tie": "tie"}
    assert Spread(one).against(Spread(other)) == verdict
    assert Spread(one, falls=True).against(Spread(other)) == opposite[verdict]


def test_a_spread_shows_its_mean_and_its_ends() -> None:
    assert Spread((0.5, 0.75, 1.0)).shown(".0%") == "75% (50% to 100%)"
    assert Spread((0.5, 0.5)).shown(".1f") == "0.5"
