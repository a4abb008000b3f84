"""Accuracy, agreement and negative flips, on hand-computed cases."""

from __future__ import annotations

import math

import torch
from fxpress.quality import Agreement, agreement, sqnr
from torch import Tensor


def scores(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_a_hand_computed_case() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    # right before: samples 0, 1, 2; right after: 0, 3; flipped from right to wrong: 1, 2
    found = agreement(scores(0, 1, 2, 1), scores(0, 2, 1, 0), labels)
    assert found == Agreement(accuracy=0.5, original=0.75, agreement=0.25, negative_flips=0.5)


def test_equal_models_never_flip() -> None:
    labels = torch.tensor([0, 1, 1])
    found = agreement(scores(0, 1, 2), scores(0, 1, 2), labels)
    assert (found.agreement, found.negative_flips, found.accuracy) == (1.0, 0.0, found.original)


def test_sqnr_of_a_tenth_of_the_amplitude_is_20_db() -> None:
    signal = torch.tensor([3.0, -4.0])
    assert math.isclose(sqnr(signal, signal * 1.1), 20.0, abs_tol=1e-4)
    assert sqnr(signal, signal.clone()) == math.inf
