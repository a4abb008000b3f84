"""Zeros: how many, where, what is refused, and that they are exact integer zeros with the same bits on every target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from float_programs import Chain, applied, captured, measured, refusals, sample, sequence_program
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, PassError
from fxpress_passes import Context, Sparsify
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.prune.sparsify import SCORED
from torch import Tensor, nn


class Block(nn.Module):
    """Layers of four shapes: convolutions with norms, a normalised linear pair that can be equalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.mid, self.mid_norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.norm, self.up, self.down, self.head = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 12), nn.Linear(12, 5)
        with torch.no_grad():
            for batch_norm in (self.stem_norm, self.mid_norm):
                batch_norm.weight.uniform_(0.5, 1.5)
                batch_norm.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                batch_norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            self.norm.weight[3] = 20.0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.mid_norm(self.mid(torch.relu(self.stem_norm(self.stem(x))))))
        x = self.norm(x.flatten(2).transpose(1, 2))
        scores: Tensor = self.head(torch.relu(self.down(torch.relu(self.up(x)))).mean(1))
        return scores


@cache
def _block() -> Program:
    torch.manual_seed(0)
    return captured(Block(), 2, 3, 4, 4)


PRUNED = {"mid.weight", "up.weight", "down.weight"}


def _zeros(program: Program, name: str) -> float:
    return float((program.tensors[name] == 0).double().mean())


@pytest.mark.parametrize("score", SCORED)
def test_every_score_gives_the_zeros_that_were_asked_for(score: str) -> None:
    program = _block()
    after = Sparsify(score=score).apply(program, measured(program))
    assert {name for name, tensor in after.tensors.items() if tensor is not program.tensors[name]} == PRUNED
    assert all(_zeros(after, name) == 0.5 for name in PRUNED)
    if score != "sparsegpt":
        assert all(torch.equal(after.tensors[name], program.tensors[name] * (after.tensors[name] != 0)) for name in PRUNED)


@pytest.mark.parametrize("score", ["wanda", "sparsegpt"])
@pytest.mark.parametrize(("text", "kept", "of"), [("2:4", 2, 4), ("4:8", 4, 8)])
def test_a_pattern_holds_along_input_channels(score: str, text: str, kept: int, of: int) -> None:
    program = _block()
    after = Sparsify(score=score, pattern=text).apply(program, measured(program))
    for name in PRUNED - ({"down.weight"} if 24 % of else set()):
        groups = after.tensors[name].movedim(1, -1).reshape(-1, of)
        assert set((groups != 0).sum(1).tolist()) == {kept}


@pytest.mark.parametrize("compare", ["row", "layer", "global"])
def test_what_is_compared_has_the_share(compare: str) -> None:
    program = _block()
    after = applied(Sparsify(score="magnitude", sparsity=0.25, compare=compare), program)
    weights = [after.tensors[name].reshape(len(after.tensors[name]), -1) for name in sorted(PRUNED)]
    groups = {
        "row": [row for weight in weights for row in weight],
        "layer": weights,
        "global": [torch.cat([w.reshape(-1) for w in weights])],
    }
    assert all(int((group == 0).sum()) == round(0.25 * group.numel()) for group in groups[compare])


def test_the_ends_go_too_where_that_is_asked_for() -> None:
    after = Sparsify(score="magnitude", skip_ends=False).apply(_block(), Context())
    assert all(_zeros(after, name) > 0.4 for name in (*PRUNED, "stem.weight", "head.weight"))


def test_doing_it_again_does_nothing() -> None:
    for score in ("magnitude", "sparsegpt"):
        once = Sparsify(score=score).apply(_block(), measured(_block()))
        assert Sparsify(score=score).apply(once, measured(once)) is once


def test_the_seed_decides_random_masks() -> None:
    program = _block()
    one, other, again = (Sparsify(score="random").apply(program, Context(seed=seed)) for seed in (0, 1, 0))
    assert one.hash == again.hash != other.hash


def test_the_report_names_bytes_and_refusals() -> None:
    result = Pipeline([Sparsify(score="magnitude", sparsity=0.9, skip_ends=False)]).run(sequence_program())
    assert "as bitmasks and values" in str(result.report)
    assert "linear_2: its weight is computed; run fold-constants first" in str(result.report)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"score": "wand"}, "unknown score 'wand'; one of magnitude, random, wanda"),
        ({"sparsity": 1.0}, "sparsity=1 is no share of zeros"),
        ({"pattern": "4:2"}, "pattern='4:2'; e.g. \"2:4\""),
        ({"compare": "column"}, "compare='column'; one of row, layer, global"),
        ({"score": "sparsegpt", "compare": "global"}, "sparsegpt decides layer by layer"),
        ({"p": 3}, "p=3"),
    ],
    ids=str,
)
def test_an_option_without_meaning_is_refused(given: dict[str, object], what: str) -> None:
    with pytest.raises(PassError) as error:
        Sparsify(**given)  # type: ignore[arg-type]
    assert what in str(error.value)


def test_a_layer_that_would_be_emptied_is_left_alone() -> None:
    context = Context()
    after = Sparsify(score="magnitude", sparsity=0.98).apply(_block(), context)
    assert _zeros(after, "up.weight") == 0
    way_on = 'a lower sparsity, or compare="layer"'
    assert f"linear: sparsity=0.98 would empty each row of 16 weights; {way_on}" in refusals(context)
    program = captured(Chain(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 2)), 2, 4)
    scaled = program.edit()
    scaled.tensors["0.weight"] = program.tensors["0.weight"].detach() * 1e-6
    with pytest.raises(PassError, match=r"would empty 0\.weight; a lower sparsity, or compare=\"layer\""):
        Sparsify(score="magnitude", compare="global", skip_ends=False).apply(scaled.finish(), Context())


def test_nan_is_refused_by_name() -> None:
    edit = _block().edit()
    edit.tensors["up.weight"] = torch.full((24, 16), torch.nan)
    context = Context()
    Sparsify(score="magnitude").apply(edit.finish(), context)
    assert refusals(context) == ["linear: its weight up.weight holds NaN or infinity; repair the model"]


def test_channels_that_the_pattern_does_not_divide_are_refused() -> None:
    context = Context()
    program = captured(Chain(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 4, 1)), 2, 3, 8, 8)
    assert Sparsify(score="magnitude", pattern="2:4").apply(program, context) is program
    assert refusals(context) == ["conv2d_1: its 6 input channels are no multiple of 4; give it a share of zeros"]


def test_a_grouped_convolution_has_no_second_moment() -> None:
    program = captured(Chain(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1)), 2, 4, 8, 8)
    context = measured(program)
    assert Sparsify(score="sparsegpt").apply(program, context) is program
    assert refusals(context) == ["conv2d_1: its weight is in 2 groups; choose another score"]
    assert Sparsify(score="wanda").apply(program, context) is not program


def test_a_score_that_measures_says_that_it_has_no_data() -> None:
    with pytest.raises(CalibrationError, match="needs calibration data"):
        Sparsify(score="wanda").apply(_block(), Context())


@cache
def _integer() -> tuple[Program, Program]:
    program = _block()
    data = [sample(program, 8, seed) for seed in range(4)]
    sparse = Pipeline([Sparsify(score="wanda")]).run(program, calibration=data).program
    text = "fold-batch-norm, equalize, quantize-dyadic{integer_only=true}"
    result = fx.Pipeline.parse(text).run(sparse, calibration=data)
    assert {"fold-batch-norm", "equalize"} <= {step.name for step in result.report.steps if step.fired}
    return sparse, result.program


def test_zeros_are_integer_zeros_after_folding_equalising_and_quantising() -> None:
    sparse, integer = _integer()
    for name in PRUNED:
        weight = sparse.tensors[name]
        (codes,) = [tensor for tensor in integer.tensors.values() if tensor.shape == weight.shape]
        assert not codes.is_floating_point()
        assert not bool(codes[weight == 0].any())
        assert float((codes == 0).double().mean()) < 0.6


@pytest.mark.parametrize("target", ["reference", "onnx:int", "tvm:x86-64"])
def test_a_sparse_program_has_the_same_bits_everywhere(target: str, tmp_path: Path) -> None:
    _, integer = _integer()
    artifact = fx.lower(integer, target, out=tmp_path / "model")
    for count in (1, 3):
        inputs: Sequence[Tensor] = sample(integer, count, seed=7)
        assert np.array_equal(artifact.run(*inputs)[0], integer.run(*inputs)[0].numpy())
