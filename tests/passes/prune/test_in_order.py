"""Layer after layer: each is decided on what the layers before it give with their new weights."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from float_programs import Chain, captured, measured, refusals, sample
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, Sparsify
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence, SecondMoment
from fxpress_passes.evidence.second_moments import moment_key
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.prune.in_order import in_order
from fxpress_passes.prune.layers import Layer, prunable
from torch import Tensor, nn
from torch.nn import functional


def _net() -> Program:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 24),
        nn.Linear(24, 6),
    )
    return captured(Chain(*layers), 2, 3, 6, 6)


def _data(program: Program) -> list[tuple[Tensor, ...]]:
    return [sample(program, 16, seed) for seed in range(3)]


def _with(program: Program, weights: dict[str, Tensor]) -> Program:
    edit = program.edit()
    edit.tensors.update(weights)
    return edit.finish()


def test_each_layer_reads_what_the_new_weights_before_it_give() -> None:
    program = _net()
    data, layers = _data(program), prunable(program, Context())
    changed, asked = dict[str, Tensor](), list[str]()

    def decide(layer: Layer, moment: SecondMoment) -> Tensor | None:
        asked.append(layer.name)
        before = Evidence(Calibration(data)).second_moments(_with(program, changed))
        assert torch.allclose(*map(torch.from_numpy, (moment.moment, before[moment_key(layer.readers[0])].moment)), rtol=1e-6, atol=1e-9)
        if layer.name == "conv2d_1":
            return None  # stays as it is
        changed[layer.weight] = program.tensors[layer.weight] * 0.5
        return changed[layer.weight]

    in_order(program, data, layers, decide)
    assert asked == ["conv2d", "conv2d_1", "linear", "linear_1"]
    assert len(changed) == 3


class Twice(nn.Module):
    """One weight in two layers, and the weight of a third that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(functional.relu(self.shared(functional.relu(self.shared(x)))))
        return result


def test_a_shared_weight_is_decided_once_and_changes_for_all() -> None:
    torch.manual_seed(0)
    program = captured(Twice(), 2, 6)
    data, found = _data(program), list[tuple[str, float]]()

    def decide(layer: Layer, moment: SecondMoment) -> Tensor | None:
        found.append((layer.name, float(moment.moment.sum())))
        return torch.zeros_like(program.tensors[layer.weight]) if layer.weight == "shared.weight" else None

    in_order(program, data, prunable(program, Context()), decide)
    bias = program.tensors["shared.bias"].detach().relu().double()
    assert [name for name, _ in found] == ["linear", "linear_2"]
    assert found[1][1] == pytest.approx(float(torch.outer(bias, bias).sum()), rel=1e-5)


def _errors(program: Program, options: Sequence[dict[str, object]]) -> list[float]:
    data = _data(program)
    found = []
    for given in options:
        after = Pipeline([Sparsify(sparsity=0.6, skip_ends=False, **given)]).run(program, calibration=data).program  # type: ignore[arg-type]
        found.append(sum(difference(program.run(*batch), after.run(*batch)).sqnr for batch in data))
    return found


def test_it_makes_up_for_errors_before() -> None:
    at_once, sequential = _errors(_net(), [{}, {"sequential": True}])
    assert sequential > at_once + 0.5 * 3  # half a decibel on each batch


def test_the_first_layer_is_decided_alike_and_what_is_not_seen_is_refused() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    program = captured(Chain(*layers), 2, 4, 5, 5)
    plans, contexts = [], []
    for sequential in (False, True):
        contexts.append(measured(program))
        plans.append(Sparsify(skip_ends=False, sequential=sequential).decide(program, contexts[-1]))
    assert torch.equal(plans[0].mask("0.weight"), plans[1].mask("0.weight"))
    assert plans[0].shapes == plans[1].shapes
    assert refusals(contexts[0]) == refusals(contexts[1]) == ["conv2d_1: its weight is in 2 groups; choose another score"]


def test_other_scores_have_no_order() -> None:
    with pytest.raises(PassError, match="sparsify: sequential is of score=sparsegpt; leave it out"):
        Sparsify(score="wanda", sequential=True)
    assert str(Pipeline.parse("sparsify{sequential=true}")) == "sparsify{sequential=true}"
