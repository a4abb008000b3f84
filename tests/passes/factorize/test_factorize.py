"""Layers of low rank become thinner ones that compute the same; others are truncated as far as asked, or left alone with a reason."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from float_programs import Chain, applied, captured, measured, operators, refusals, sample
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, PassError
from fxpress_passes import Context
from fxpress_passes.contract import difference
from fxpress_passes.evidence import second_moments
from fxpress_passes.factorize.factorize import Factorize
from fxpress_passes.factorize.plan import RankPlan, Split
from fxpress_passes.pipeline import Pipeline
from torch import Size, Tensor, nn
from torch.nn import functional


def _thin(layer: nn.Linear | nn.Conv2d, rank: int) -> nn.Module:
    """The layer with its flattened weight truncated to a rank."""
    left, values, right = torch.linalg.svd(layer.weight.data.flatten(1), full_matrices=False)
    layer.weight.data = ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(layer.weight.shape)
    return layer


def _shapes(program: Program) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for name, tensor in program.tensors.items() if "factor" in name]


def _net() -> Program:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 24),
        nn.Linear(24, 20),
    )
    return captured(Chain(*layers), 1, 3, 6, 6)


def test_a_linear_layer_of_low_rank_becomes_two() -> None:
    program = captured(Chain(_thin(nn.Linear(12, 10), 3)), 1, 12)
    after = applied(Factorize(energy=1.0), program)
    assert operators(after) == ["aten.linear", "aten.linear"]
    assert _shapes(after) == [(3, 12), (10, 3)]
    assert after.cost().parameters == 3 * 22 + 10


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2, "padding": (2, 0)}, {"dilation": (1, 2)}, {"padding": "same"}, {"padding": "valid"}]
)
def test_a_convolution_keeps_its_stride_padding_and_dilation(options: dict[str, object]) -> None:
    program = captured(Chain(_thin(nn.Conv2d(8, 12, 3, **options), 2)), 1, 8, 9, 9)  # type: ignore[arg-type]
    after = applied(Factorize(energy=1.0), program)
    assert _shapes(after) == [(2, 8, 3, 3), (12, 2, 1, 1)]


@pytest.mark.parametrize(
    ("kind", "shapes"), [("spatial", [(6, 8, 3, 1), (12, 6, 1, 3)]), ("tucker", [(3, 8, 1, 1), (2, 3, 3, 3), (12, 2, 1, 1)])]
)
@pytest.mark.parametrize("options", [{"stride": (2, 1), "padding": (2, 1)}, {"dilation": (1, 2), "padding": "same"}])
def test_a_convolution_of_low_rank_in_other_ways(kind: str, shapes: list[tuple[int, ...]], options: dict[str, object]) -> None:
    layer = nn.Conv2d(8, 12, 3, **options)  # type: ignore[arg-type]
    out, core, into = torch.randn(12, 2), torch.randn(2, 3, 3, 3), torch.randn(3, 8)
    if kind == "spatial":
        high, wide = torch.randn(8, 3, 6), torch.randn(12, 3, 6)
        layer.weight.data = torch.einsum("oxr,iyr->oiyx", wide, high)
    else:
        layer.weight.data = torch.einsum("oa,abyx,bi->oiyx", out, core, into)
    program = captured(Chain(layer), 1, 8, 9, 9)
    assert _shapes(applied(Factorize(energy=1.0, convolutions=kind), program)) == shapes


def test_a_pointwise_convolution_is_split_by_channels_whatever_is_asked() -> None:
    program = captured(Chain(_thin(nn.Conv2d(12, 10, 1), 2)), 1, 12, 4, 4)
    assert _shapes(applied(Factorize(energy=1.0, convolutions="tucker"), program)) == [(2, 12, 1, 1), (10, 2, 1, 1)]


@pytest.mark.parametrize("metric", ["plain", "activations", "fisher"])
def test_a_ratio_is_reached_over_all_layers(metric: str) -> None:
    program, context = _net(), measured(_net())
    before = sum(tensor.numel() for tensor in program.tensors.values() if tensor.dim() > 1)
    item = Factorize(ratio=0.5, metric=metric)
    plan = item.decide(program, context)
    assert sum(split.before - split.after for split in plan.splits.values()) >= 0.5 * before
    after = item.apply(program, context)
    assert program.cost().parameters - after.cost().parameters == sum(split.before - split.after for split in plan.splits.values())


def test_activations_bring_the_layers_results_nearest_at_equal_ranks() -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.Linear(24, 16)), 1, 24)
    scale = torch.linspace(0.01, 4, 24)
    batches = [(sample(program, 32, seed)[0] * scale,) for seed in range(4)]
    errors = {}
    for metric in ("plain", "activations", "fisher"):
        item = Factorize(ratio=0.4, metric=metric)
        after = Pipeline([item]).run(program, calibration=batches).program
        errors[metric] = sum(float((program.run(*batch)[0] - after.run(*batch)[0]).square().sum()) for batch in batches)
    assert errors["activations"] == min(errors.values())
    assert errors["activations"] < 0.6 * errors["plain"]


def test_fisher_keeps_the_rows_that_the_outputs_depend_on() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(16, 12), nn.Linear(12, 4)
    second.weight.data[:, :6] *= 0.001
    program = captured(Chain(first, nn.ReLU(), second), 1, 16)
    plan = RankPlan(program.hash, {"linear": Split("channel", (6,), 192, 168)})
    weights = {}
    for metric in ("plain", "fisher"):
        after = Factorize(metric=metric).cut(program, plan, measured(program))
        left, right = (after.tensors[f"0.factor_{place}"] for place in (1, 0))
        weights[metric] = (left @ right - first.weight.detach()).square()
    assert weights["fisher"][6:].sum() < 0.01 * weights["plain"][6:].sum()
    loss = Factorize(metric="fisher", loss=lambda outputs, batch: outputs[0].square().mean())
    after = loss.cut(program, plan, measured(program))
    gap = (after.tensors["0.factor_1"] @ after.tensors["0.factor_0"] - first.weight.detach()).square()
    assert gap[6:].sum() < 0.01 * weights["plain"][6:].sum()


def test_a_weight_of_two_layers_is_factorised_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = _thin(nn.Linear(12, 12), 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(functional.relu(self.layer(x)))
            return result

    program = captured(Twice(), 1, 12)
    after = applied(Factorize(energy=1.0), program)
    assert operators(after).count("aten.linear") == 4
    assert _shapes(after) == [(2, 12), (12, 2)]


class Tied(nn.Module):
    """An embedding whose table is the weight of the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 2) @ torch.randn(2, 12))

    def forward(self, ids: Tensor) -> Tensor:
        return functional.linear(functional.embedding(ids, self.table), self.table)


def test_what_it_leaves_alone_and_why() -> None:
    layers = (nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 6))
    program, context = captured(Chain(*layers), 1, 4, 6, 6), Context()
    assert Factorize(energy=1.0).apply(program, context) is program
    seen = "its channels see too little of the input to share directions"
    assert refusals(context) == [
        f"conv2d: its convolution is depthwise: {seen}",
        f"conv2d_1: its convolution is in 2 groups: {seen}",
        "linear: rank 6 would take 228 parameters for 192",
    ]
    program, context = captured(Tied(), 1, 5, dtype=torch.int64), Context()
    assert Factorize(energy=1.0).apply(program, context) is program
    assert refusals(context) == ["linear: embedding reads the whole weight too"]


def test_a_rank_that_the_target_is_not_faster_at_is_not_taken() -> None:
    program = captured(Chain(_thin(nn.Linear(32, 24), 4), _thin(nn.Linear(24, 32), 2)), 1, 32)
    asked: list[tuple[Size, str, tuple[int, ...]]] = []

    def faster(shape: Size, kind: str, ranks: tuple[int, ...]) -> bool:
        asked.append((shape, kind, ranks))
        return ranks[0] <= 2

    context = Context()
    item = Factorize(energy=1.0, faster=faster)
    assert _shapes(item.apply(program, context)) == [(2, 24), (32, 2)]
    assert refusals(context) == ["linear: it is not faster on the target at rank 4; lower the energy"]
    assert asked == [(torch.Size([24, 32]), "channel", (4,)), (torch.Size([32, 24]), "channel", (2,))]
    plan = Factorize(ratio=0.8, metric="plain", faster=faster).decide(program, Context())
    assert [split.ranks[0] <= 2 for split in plan.splits.values()] == [True, True]
    context = Context()
    assert not Factorize(ratio=0.0, energy=0.5, metric="plain", faster=lambda *_: False).decide(program, context).splits
    with pytest.raises(PassError, match=r"at most 0\.000 can"):
        Factorize(ratio=0.1, metric="plain", faster=lambda *_: False).decide(program, context)
    assert refusals(context)[-1] == "linear_1: no rank takes fewer parameters and is faster on the target"
    assert str(item) == "factorize{energy=1.0}"


def test_a_plan_is_text_that_can_be_edited_and_replayed() -> None:
    program, context, item = _net(), measured(_net()), Factorize(ratio=0.5)
    plan = item.decide(program, context)
    assert RankPlan.from_json(plan.to_json()) == plan
    assert str(plan).splitlines()[0] == "linear: channel, ranks 5, 6144 -> 1400 parameters"
    again = item.cut(program, RankPlan.from_json(plan.to_json()), measured(_net()))
    assert difference(item.apply(program, context).run(*sample(program, 3)), again.run(*sample(program, 3))).equal
    edited = replace(plan, splits={"linear": replace(plan.splits["linear"], ranks=(2,))})
    assert _shapes(item.cut(program, edited, context)) == [(2, 256), (24, 2)]


def test_a_layer_whose_inputs_are_too_many_to_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "COLUMNS", 150)
    program, context = _net(), measured(_net())
    plan = Factorize(ratio=0.2).decide(program, context)
    assert "linear" not in plan.splits
    assert refusals(context)[0] == "linear: the second moment of its 256 inputs is not kept, 150 are the most; metric=plain needs none"
    plan = Factorize(ratio=0.5, metric="plain").decide(program, context)
    with pytest.raises(PassError, match="metric=activations cannot see linear"):
        Factorize().cut(program, plan, context)


@pytest.mark.parametrize("options", [{"energy": 0.0}, {"energy": 1.1}, {"ratio": 1.0}, {"metric": "hessian"}, {"convolutions": "cp"}])
def test_options_without_a_meaning_are_an_error(options: dict[str, float]) -> None:
    with pytest.raises(PassError, match=next(iter(options))):
        Factorize(**options)  # type: ignore[arg-type]


def test_without_data_only_the_plain_metric_works() -> None:
    program = _net()
    with pytest.raises(CalibrationError):
        Factorize(energy=0.5).apply(program, Context())
    assert Factorize(energy=0.5, metric="plain").apply(program, Context()) is not program


@cache
def _integers() -> Program:
    program = _net()
    text = "factorize{ratio=0.5, convolutions=spatial}, quantize-dyadic{integer_only=true}"
    result = fx.Pipeline.parse(text).run(program, calibration=[sample(program, 8, seed) for seed in range(4)])
    assert any(step.fired for step in result.report.steps if step.name.startswith("factorize"))
    return result.program


@pytest.mark.parametrize("target", ["reference", "onnx:int", "onnx:qlinear", "tvm:x86-64"])
def test_factors_are_the_same_integers_everywhere(target: str, tmp_path: Path) -> None:
    program = _integers()
    assert program.stage == "integer"
    assert any("factor" in name for name in program.tensors)
    (x,) = sample(_net(), 3, 9)
    artifact = fx.lower(program, target, out=tmp_path / "model")
    assert np.array_equal(artifact.run(x.numpy())[0], program.run(x)[0].numpy())
