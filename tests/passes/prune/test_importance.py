"""Each score by hand: norms of rows, means of activations, moments of the loss's derivative by a factor on the atom."""

from __future__ import annotations

import pytest
import torch
from encoder import encoder_program
from float_programs import ResidualNet, captured, measured, sample
from fxpress_ir.analysis.coupling import coupled_groups
from fxpress_ir.slicing import mask_atoms
from fxpress_passes import Context, PruneChannels
from fxpress_passes.evidence.gradients import own_cross_entropy
from fxpress_passes.prune.importance import IMPORTANCES, Asked
from fxpress_passes.prune.importance.gates import Gates
from torch import Tensor, nn
from torch.nn import functional


def asked(model: nn.Module, *shape: int, batches: int = 3, batch: int = 4) -> Asked:
    program = captured(model, *shape)
    return Asked(program, coupled_groups(program).prunable, measured(program, batches, batch), own_cross_entropy)


def data(question: Asked) -> list[Tensor]:
    return [batch[0] for batch in question.context.evidence.calibration.batches(question.program)]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))


def test_magnitude_is_over_all_that_makes_or_reads_an_atom() -> None:
    layers = mlp()
    weights = [layer.weight.double() for layer in (layers[0], layers[2])]
    hidden = weights[0].square().sum(1) + layers[0].bias.double().square() + weights[1].square().sum(0)
    torch.testing.assert_close(IMPORTANCES["magnitude"](asked(layers, 2, 3))["0"], hidden.sqrt().detach())
    model = ResidualNet()
    found = IMPORTANCES["magnitude"](asked(model, 1, 3, 8, 8))
    rows, columns = (
        {name: getattr(model, name).weight.double().square().sum((dim, 2, 3)) for name in ("stem", "left", "right")} for dim in (1, 0)
    )
    torch.testing.assert_close(found["stem"], (rows["stem"] + rows["right"] + columns["left"]).sqrt().detach())
    torch.testing.assert_close(found["left"], (rows["left"] + model.left.bias.double().square() + columns["right"]).sqrt().detach())


def test_activation_is_the_mean_over_places_and_the_norm_over_the_batch() -> None:
    program = encoder_program()
    groups = coupled_groups(program)
    question = Asked(program, [groups["layers.1.query"]], measured(program, 2, 4), own_cross_entropy)
    found = IMPORTANCES["activation"](question)["layers.1.query"]
    seen: list[Tensor] = []
    gates = Gates(program, question.groups)
    for x in data(question):
        with torch.no_grad():
            gates.outputs((x,), {}, lambda _, value: seen.append(value.double()))
    means = torch.cat(seen).abs().mean(1)
    torch.testing.assert_close(found, means.reshape(-1, 4, 4).square().sum((0, 2)).sqrt())


@pytest.mark.parametrize(("score", "moment"), [("taylor", lambda g: g.abs()), ("fisher", lambda g: g.square() / 2)])
def test_gradients_are_those_of_a_factor(score: str, moment: object) -> None:
    model = mlp()
    question = asked(model, 2, 3)
    found = IMPORTANCES[score](question)["0"]
    total = torch.zeros(6, dtype=torch.float64)
    samples = torch.cat(data(question))
    for x in samples:
        hidden = model[:2](x[None]).detach().requires_grad_()
        scores = model[2](hidden)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(scores, scores.argmax(1)), hidden)
        total += moment((hidden * gradient)[0].detach().double())  # type: ignore[operator]
    torch.testing.assert_close(found, total / len(samples), rtol=1e-5, atol=1e-9)


def test_a_factor_of_zero_is_a_mask() -> None:
    program = encoder_program()
    groups = [group for group in coupled_groups(program).prunable if group.exact]
    gates = Gates(program, groups)
    x = sample(program, 3)
    for group in groups:
        factors = torch.ones(group.size)
        factors[2] = 0
        masked = mask_atoms(program, {group.name: [atom for atom in range(group.size) if atom != 2]})
        with torch.no_grad():
            torch.testing.assert_close(gates.outputs(x, {group.name: factors}), masked.run(*x), rtol=0, atol=1e-6)


def test_a_trajectory_is_zero_without_effect_and_grows_with_it() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(4, 1).expand(4, 6) * torch.tensor([0, 0.1, 0.2, 0.3, 0.4, 0.5]))
        model[0].weight.copy_(torch.ones(6, 3))
        model[0].bias.fill_(4.0)
    found = IMPORTANCES["trajectory"](asked(model, 2, 3))["0"].tolist()
    assert found[0] == 0
    assert found == sorted(found)


def test_a_trajectory_feels_layers_between_the_mask_and_the_outputs() -> None:
    """The outputs are the same for all classes, so only the Gram matrices can tell."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    nn.init.zeros_(model[4].weight)
    found = IMPORTANCES["trajectory"](asked(model, 2, 3))
    assert float(found["0"].max()) > 0
    assert float(found["2"].max()) == 0


def test_of_nested_weights_the_first_stay() -> None:
    model = mlp()
    program = captured(model, 2, 3)
    found = PruneChannels(ratio=0.5, score="order").apply(program, Context())
    assert torch.equal(found.tensors["0.weight"], model[0].weight[:3])
    assert torch.equal(found.tensors["2.weight"], model[2].weight[:, :3])
    x = sample(program, 3)
    torch.testing.assert_close(found.run(*x), mask_atoms(program, {"0": range(3)}).run(*x), rtol=0, atol=1e-6)
