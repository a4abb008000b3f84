"""The loop: features, batch norms in training, masks that grow, a run in two pieces."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured, sample, untouched
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes.recover.checkpoint import Checkpoint
from fxpress_passes.recover.trainable import Dense
from fxpress_passes.recover.training import How, Training, run, with_features
from torch import nn

NAMES = ("0.weight", "3.weight")


def _program(seed: int) -> Program:
    torch.manual_seed(seed)
    return captured(Chain(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)), 2, 4)


def _training(how: How, pruned: tuple[str, ...] = ()) -> tuple[Training, dict[str, Dense]]:
    student = _program(1)
    items = {name: Dense(student.tensors[name]) for name in NAMES}
    return Training(student, _program(0), items, pruned, how), items


def test_features_are_the_values_of_nodes() -> None:
    program, x = _program(0), torch.randn(5, 4)
    (y,), (hidden,) = with_features(program, ["relu_1"])(x)
    assert torch.equal(y, program.run(x)[0])
    assert hidden.shape == (5, 16)
    assert float(hidden.detach().min()) == 0


def test_in_training_a_norm_uses_its_batch() -> None:
    program, x = _program(0), 3 * torch.randn(50, 4) + 1
    with untouched(program):
        _, (normal,) = with_features(program, ["batch_norm"], batch_statistics=True)(x)
    torch.testing.assert_close(normal.mean(0), torch.zeros(16), atol=1e-5, rtol=0)


def test_a_node_that_is_missing_or_of_another_shape_is_named() -> None:
    with pytest.raises(PassError, match=r"^recover: the program has no node 'relu_7'; name nodes of both"):
        _training(How(1, 1e-2, features=("relu_7",)))
    other = captured(Chain(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), 2, 4)
    with pytest.raises(PassError, match=r"^recover: node 'relu' has another shape in the teacher"):
        Training(_program(1), other, {"0.weight": Dense(_program(1).tensors["0.weight"])}, (), How(1, 1e-2, features=("relu",)))


def test_the_loss_falls() -> None:
    training, _ = _training(How(60, 1e-2, features=("relu_1",)))
    batch = sample(_program(0), 32)
    losses = [training.step(number, batch) for number in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_perturbed_weights_are_those_of_the_step_and_leave_no_trace() -> None:
    """The noise is in the loss alone: zeros stay, the same step sees the same noise, and without a rate nothing moves."""
    batch = sample(_program(0), 32)
    training, items = _training(How(4, 1e-9, perturbation=0.1))
    items["3.weight"].leaves["value"].data[:, 0] = 0
    plain, _ = _training(How(4, 1e-9))
    noisy = [float(training.loss(batch, number).detach()) for number in (0, 1, 0)]
    assert noisy[0] == noisy[2] != noisy[1]
    assert noisy[0] != float(plain.loss(batch).detach())
    before = items["3.weight"].value().detach().clone()
    training.step(0, batch)
    torch.testing.assert_close(items["3.weight"].value().detach(), before, rtol=0, atol=1e-6)


def test_masks_grow_to_the_final_share_and_stay() -> None:
    training, items = _training(How(30, 1e-2, sparsity=0.75, prune_every=4), ("3.weight",))
    shares = []
    for number in range(30):
        training.step(number, sample(_program(0), 16, number))
        mask = items["3.weight"].mask
        assert mask is not None
        shares.append(1 - float(mask.double().mean()))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[20:] == [0.75] * 10
    assert items["0.weight"].mask is None
    assert float((items["3.weight"].merged() == 0).double().mean()) == 0.75


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: object) -> None:
    how, data = How(12, 1e-2, sparsity=0.5, prune_every=2), [sample(_program(0), 8, seed) for seed in range(5)]

    def done(number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    whole, whole_items = _training(how, ("3.weight",))
    run(whole, 12, lambda: data, Checkpoint("", "k"), lambda number: None)
    first, _ = _training(how, ("3.weight",))
    with pytest.raises(KeyboardInterrupt):
        run(first, 12, lambda: data, Checkpoint(str(tmp_path), "k"), done)
    steps: list[int] = []
    second, items = _training(how, ("3.weight",))
    run(second, 12, lambda: data, Checkpoint(str(tmp_path), "k"), steps.append)
    assert steps == [6, 7, 8, 9, 10, 11, 12]
    assert all(torch.equal(items[name].merged(), whole_items[name].merged()) for name in NAMES)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    training, _ = _training(How(5, 1e-2))
    with pytest.raises(PassError, match=r"^recover: the loss is nan at step 0; a lower rate$"):
        training.step(0, (torch.full((4, 4), torch.nan),))
