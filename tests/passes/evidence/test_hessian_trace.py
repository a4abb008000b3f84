"""Hutchinson's estimate is near the exact trace by `torch.func`, its interval holds it; walks merge, are kept and gone on with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence import Calibration, Evidence, States, merge_calibration
from fxpress_passes.evidence.hessian_trace import HessianTraces
from fxpress_passes.evidence.losses import LOSSES
from fxpress_passes.evidence.trace import Trace
from torch import Tensor, nn
from torch.func import functional_call, hessian


def _program() -> Program:
    torch.manual_seed(0)
    return captured(Chain(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)), 2, 1, 4, 4)


def _batches(count: int = 2) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 4, 4, generator=generator),) for _ in range(count)]


def _exact(program: Program, name: str, loss: str, batch: tuple[Tensor]) -> float:
    """The trace of the whole Hessian by forward over reverse."""

    def of(weight: Tensor) -> Tensor:
        return LOSSES[loss](functional_call(program.module, {name: weight}, batch), batch)

    weight = program.tensors[name].detach()
    whole = hessian(of)(weight).reshape(weight.numel(), weight.numel())
    return float(torch.trace(whole))


@pytest.mark.parametrize("loss", ["divergence", "squares", "cross-entropy"])
def test_the_trace_is_within_five_percent_of_the_exact_one(loss: str) -> None:
    program, batches = _program(), _batches()
    names = [name for name in program.tensors if name.endswith("weight")]
    assert len(names) == 2
    observer = HessianTraces(program, names, LOSSES[loss], draws=1000, seed=2)  # a standard error is 3 %
    for batch in batches:
        observer.observe(batch)
    for name in names:
        exact = sum(_exact(program, name, loss, batch) for batch in batches) / len(batches)
        trace = observer.found[name]
        assert trace.mean == pytest.approx(exact, rel=0.05)
        low, high = trace.interval(0.999)
        assert low <= exact <= high
        assert high - low < abs(exact)
        assert (trace.size, trace.count) == (program.tensors[name].numel(), 2000)


def test_the_trace_by_what_a_node_gives_is_the_mean_of_single_samples() -> None:
    program, (batch, *_) = _program(), _batches()
    observer = HessianTraces(program, (), LOSSES["squares"], nodes=["tanh"], draws=600)
    observer.observe(batch)
    weight = program.tensors[next(name for name in program.tensors if program.tensors[name].shape == (4, 12))].detach()
    assert observer.found["tanh"].mean == pytest.approx(float(weight.square().sum()), rel=0.05)  # J is the weight
    assert observer.found["tanh"].size == 12


def test_draws_are_those_of_the_seed_and_the_batch() -> None:
    program, batches = _program(), _batches()
    name = next(iter(program.tensors))

    def found(seed: int, *given: tuple[Tensor]) -> Trace:
        observer = HessianTraces(program, [name], LOSSES["divergence"], draws=2, seed=seed)
        for batch in given:
            observer.observe(batch)
        return observer.found[name]

    assert found(0, *batches) == found(0, *batches) != found(1, *batches)
    alone = [found(0, batch) for batch in batches]
    assert found(0, *batches) == alone[0].merge(alone[1])
    assert found(0, *reversed(batches)) == alone[1].merge(alone[0])


def test_merged_draws_are_those_of_one_walk() -> None:
    values = torch.randn(7, generator=torch.Generator().manual_seed(0)).double()
    single = [Trace(5, 1, float(value), 0.0) for value in values]
    whole = single[0]
    for one in single[1:]:
        whole = whole.merge(one)
    assert whole.mean == pytest.approx(float(values.mean()))
    assert whole.eigenvalue == pytest.approx(float(values.mean()) / 5)
    assert whole.squares == pytest.approx(float((values - values.mean()).square().sum()))
    assert single[0].interval() == (-math.inf, math.inf)


def test_attention_has_a_second_derivative() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.parts(x).chunk(3, -1))
            return nn.functional.scaled_dot_product_attention(q, k, v).flatten(1)

    torch.manual_seed(0)
    program = captured(Attends(), 2, 5, 8)
    name = next(name for name in program.tensors if name.endswith("weight"))
    observer = HessianTraces(program, [name], LOSSES["squares"], draws=4)
    observer.observe((torch.randn(3, 5, 8),))
    assert observer.found[name].mean > 0


def test_a_loss_that_knows_no_weights_is_refused() -> None:
    program = _program()
    with pytest.raises(CalibrationError, match="no scalar that depends on the weights; give one that is"):
        HessianTraces(program, list(program.tensors), lambda outputs, batch: torch.zeros(())).observe(_batches()[0])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each batch whose second derivatives were taken."""
    batches: list[int] = []
    observe = HessianTraces.observe

    def noting(self: HessianTraces, batch: tuple[Tensor, ...]) -> None:
        observe(self, batch)
        batches.append(len(batch[0]))

    monkeypatch.setattr(HessianTraces, "observe", noting)
    return batches


def _cut(batches: list[tuple[Tensor]], stop: int) -> Iterator[tuple[Tensor]]:
    yield from batches[:stop]
    raise KeyboardInterrupt


def _asked(evidence: Evidence, seed: int = 0, loss: str = "squares") -> Mapping[str, Trace]:
    program = _program()
    return evidence.traces(program, loss, seed, [name for name in program.tensors if name.endswith("weight")], draws=3)


def _kept(folder: Path, batches: Iterable[tuple[Tensor]], **asked: Any) -> Mapping[str, Trace]:
    return _asked(Evidence(Calibration(batches), states=States(folder)), **asked)


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_walk_goes_on_to_the_same_traces(stop: int, tmp_path: Path, measured: list[int]) -> None:
    batches = _batches(6)
    undisturbed = _asked(Evidence(Calibration(batches)))
    assert len(measured) == 4  # `most`
    with pytest.raises(KeyboardInterrupt):
        _kept(tmp_path, _cut(batches, stop))
    assert _kept(tmp_path, batches) == undisturbed
    assert len(measured) == 8
    assert _kept(tmp_path, batches) == undisturbed
    assert _asked(Evidence(None, states=States(tmp_path))) == undisturbed
    assert len(measured) == 8


def test_a_trace_is_measured_once_for_a_program_a_loss_and_a_seed(measured: list[int]) -> None:
    evidence = Evidence(Calibration(_batches()))
    first = _asked(evidence)
    assert _asked(evidence) is first
    assert len(measured) == 2
    assert _asked(evidence, seed=1) != first
    assert _asked(evidence, loss="divergence") != first
    assert len(measured) == 6


def test_traces_of_shards_merge_to_those_of_their_union(tmp_path: Path) -> None:
    batches = _batches(3)
    _kept(tmp_path / "a", batches[:2])
    _kept(tmp_path / "b", batches[2:])
    merge_calibration([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    joint = _asked(Evidence(Calibration(batches)))
    for name, found in _asked(Evidence(None, states=States(tmp_path / "both"))).items():
        assert (found.size, found.count) == (joint[name].size, 9)
        assert (found.mean, found.squares) == pytest.approx((joint[name].mean, joint[name].squares))


def test_traces_of_other_data_and_damaged_ones_are_one_line(tmp_path: Path) -> None:
    _kept(tmp_path, _batches())
    with pytest.raises(CalibrationError, match=r"its 2 batches were others than the first 2 of these data; calibrate on the same data"):
        _kept(tmp_path, reversed(_batches()))
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CalibrationError, match=r"traces-.*is damaged: its SHA-256 is another one; remove it to measure anew$"):
        _kept(tmp_path, _batches())
