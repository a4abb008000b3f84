"""Costs of choices are measured once, kept in a folder, gone on with where they were interrupted, and merged."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, PassError
from fxpress_passes import AllocateBits, Context
from fxpress_passes.evidence import Calibration, Evidence, States, merge_calibration
from fxpress_passes.evidence.gradients import Gradients, samples
from fxpress_passes.evidence.hessian_trace import HessianTraces
from fxpress_passes.evidence.sensitivity import MEASURES, Asked, Perturbation, superposed
from fxpress_passes.evidence.sensitivity.measured import distance
from torch import Tensor, nn


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return captured(Chain(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)), 2, 8)


def _rounded(program: Program, name: str, step: float) -> Perturbation:
    weight = program.tensors[name].detach()
    return Perturbation(f"{name} {step}", lambda: {name: torch.round(weight / step) * step})


def _weights(program: Program) -> list[str]:
    return [name for name in program.tensors if name.endswith("weight")]


class _Data:
    """Batches that can be walked any number of times; the first `stop` of them, then something is raised."""

    def __init__(self, *places: int, stop: int = 99) -> None:
        drawn = {place: torch.randn(6, 8, generator=torch.Generator().manual_seed(place)) for place in places}
        self.batches, self.stop = [(drawn[place],) for place in places], stop

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        yield from self.batches[: self.stop]
        if self.stop < len(self.batches):
            raise KeyboardInterrupt


def _choices(program: Program) -> list[Perturbation]:
    return [_rounded(program, name, step) for name in _weights(program) for step in (0.1, 0.3)]


def _kept(program: Program, data: Iterable[Any], folder: Path | None, choices: list[Perturbation] | None = None, **asked: Any) -> Asked:
    evidence = Evidence(Calibration(data), states=None if folder is None else States(folder))
    return Asked(program, _choices(program) if choices is None else choices, Context(evidence), **asked)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What measures work with, noted at each use."""
    used: list[str] = []

    def note(owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def noting(*args: Any, **named: Any) -> Any:
            used.append(name)
            return own(*args, **named)

        monkeypatch.setattr(owner, name, noting)

    folder = "fxpress_passes.evidence.sensitivity"
    note(sys.modules[f"{folder}.recorded"].Recorded, "changed")
    note(sys.modules[f"{folder}.masked"], "perturbed")
    note(sys.modules[f"{folder}.curvature"], "top_eigenvalue")
    note(sys.modules[f"{folder}.curvature"].Gradients, "observe")
    note(HessianTraces, "observe")
    return used


MEASURED = [measure for measure in MEASURES if measure != "weight-error"]


@pytest.mark.parametrize("measure", MEASURED)
def test_an_interrupted_question_goes_on_and_a_second_one_measures_nothing(
    program: Program, measure: str, tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, whole = MEASURES[measure](_kept(program, _Data(0, 1, 2), None)), len(runs)
    assert whole
    broken = _kept(program, _Data(0, 1, 2), tmp_path)
    steps = 0

    def cut(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == (1 if measure == "eigenvalue" else 5 if measure in ("distance", "noise", "fisher", "taylor") else 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MEASURES[measure](replace(broken, context=replace(broken.context, progress=cut)))
    assert len(runs) - whole < whole
    assert MEASURES[measure](_kept(program, _Data(0, 1, 2), tmp_path)) == undisturbed
    assert len(runs) - whole < 2 * whole
    before = len(runs)
    assert MEASURES[measure](_kept(program, _Data(0, 1, 2), tmp_path)) == undisturbed
    without = Context(Evidence(None, states=States(tmp_path)))
    assert MEASURES[measure](Asked(program, _choices(program), without)) == undisturbed
    same = _kept(program, _Data(0, 1, 2), None)
    assert MEASURES[measure](same) == MEASURES[measure](same) == undisturbed
    assert len(runs) == before + whole


def test_products_of_moves_are_kept_and_gone_on_with(program: Program, tmp_path: Path, runs: list[str]) -> None:
    undisturbed, steps, a_batch = superposed(_kept(program, _Data(0, 1, 2), None)), 0, len(_choices(program))
    assert len(runs) == 3 * a_batch
    broken = _kept(program, _Data(0, 1, 2), tmp_path)

    def cut(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == (1 + a_batch) * (2 + a_batch) // 2 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        superposed(replace(broken, context=replace(broken.context, progress=cut)))
    before = len(runs)
    assert torch.equal(superposed(_kept(program, _Data(0, 1, 2), tmp_path)), undisturbed)
    assert len(runs) == before + 2 * a_batch
    assert torch.equal(superposed(_kept(program, _Data(0, 1, 2), tmp_path)), undisturbed)
    assert len(runs) == before + 2 * a_batch
    around = replace(_kept(program, _Data(0, 1, 2), tmp_path), base={_weights(program)[0]: torch.zeros(16, 8)})
    assert not torch.equal(superposed(around), undisturbed)


def test_a_larger_question_tries_only_the_choices_that_are_new(program: Program, tmp_path: Path, runs: list[str]) -> None:
    choices = _choices(program)
    first = distance(_kept(program, _Data(0, 1), tmp_path, choices[:2]))
    found = distance(_kept(program, _Data(0, 1), tmp_path, choices))
    assert len(runs) == 4 * 2
    assert {name: found[name] for name in first} == first
    assert distance(_kept(program, _Data(0, 1), tmp_path, choices[1:3])) == {one.name: found[one.name] for one in choices[1:3]}
    assert len(runs) == 4 * 2
    assert found == distance(_kept(program, _Data(0, 1), None))


def test_what_a_choice_makes_of_weights_and_inputs_tells_it_from_others_of_its_name(program: Program, tmp_path: Path) -> None:
    name, node = _weights(program)[0], next(node for node in program.graph.nodes if "linear" in node.name).name
    weight = program.tensors[name].detach()

    def found(change: float, scale: float, base: float = 0.1) -> float:
        one = Perturbation("same", lambda: {name: weight + change}, {node: lambda x: x * scale})
        asked = _kept(program, _Data(0, 1), tmp_path, [one], loss="squares", base={_weights(program)[1]: torch.full((5, 16), base)})
        return distance(asked)["same"]

    wanted = [(0.1, 1.0), (0.2, 1.0), (0.1, 1.5), (0.1, 1.0, 0.3)]
    values = [found(*one) for one in wanted]
    assert len(set(values)) == len(values)
    assert [found(*one) for one in wanted] == values


@pytest.mark.parametrize("measure", ["distance", "masked", "fisher", "taylor"])
def test_costs_of_shards_merge_to_those_of_their_union(program: Program, measure: str, tmp_path: Path) -> None:
    for name, places in (("a", (0, 1)), ("b", (2,))):
        MEASURES[measure](_kept(program, _Data(*places), tmp_path / name))
    merge_calibration([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    found = MEASURES[measure](_kept(program, _Data(2), tmp_path / "both"))
    assert found == pytest.approx(MEASURES[measure](_kept(program, _Data(0, 1, 2), None)), rel=1e-4)


def test_what_one_shard_alone_tried_is_not_merged(program: Program, tmp_path: Path) -> None:
    for place, name in enumerate("ab"):
        asked = _kept(program, _Data(place), tmp_path / name, _choices(program)[: 1 + place])
        distance(asked)
        MEASURES["eigenvalue"](asked)
        asked.context.evidence.ranges(program)
    merge_calibration([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert [path.name.split("-")[0] for path in (tmp_path / "both").iterdir()] == ["ranges"]


def test_costs_by_gradients_are_those_of_their_formulas(program: Program) -> None:
    asked = _kept(program, _Data(*range(12)), None, most=12)
    squares, means = (Gradients(program, _weights(program), statistic) for statistic in ("square", "mean"))  # type: ignore[arg-type]
    for sample in samples(program, asked.batches, 64):
        squares.observe(sample)
    for batch in asked.batches:
        means.observe(batch)
    fisher, taylor = MEASURES["fisher"](asked), MEASURES["taylor"](asked)
    for one in asked.perturbations:
        ((name, change),) = asked.changes(one).items()
        assert fisher[one.name] == pytest.approx(float((squares.found[name] * change.square()).sum()) / 2, rel=1e-4)
        assert taylor[one.name] == pytest.approx(abs(float((means.found[name] * change).sum())), rel=1e-4)


@pytest.mark.parametrize(
    ("measure", "choices"), [("distance", ("w8", "w4")), ("distance", ("w8a16", "w4a8")), ("hessian-trace", ("w8", "w4"))]
)
def test_other_budgets_measure_nothing_again(
    program: Program, measure: str, choices: tuple[str, ...], tmp_path: Path, runs: list[str]
) -> None:
    for place, average in enumerate((8.0, 6.0, 4.0)):
        before, context = len(runs), _kept(program, _Data(0, 1), tmp_path).context
        AllocateBits(average=average, choices=choices, measure=measure, rounds=0).decide(program, context)
        assert (len(runs) > before) == (place == 0)


def test_derivatives_do_not_tell_what_changes_of_inputs_cost(program: Program) -> None:
    context = _kept(program, _Data(0, 1), None).context
    with pytest.raises(PassError, match="changes inputs; measure it by distance or noise, which try it"):
        AllocateBits(choices=("w8a16", "w4a8"), measure="fisher", rounds=0).decide(program, context)


@pytest.mark.parametrize("count", [2, 4], ids=["the same choices", "more"])
def test_costs_over_other_data_and_damaged_ones_are_one_line(program: Program, count: int, tmp_path: Path, runs: list[str]) -> None:
    distance(_kept(program, _Data(0, 1), tmp_path, _choices(program)[:2]))
    before = len(runs)
    with pytest.raises(CalibrationError, match=r"^calibration state .*others than the first.* of these data; calibrate on the same data"):
        distance(_kept(program, _Data(1, 0), tmp_path, _choices(program)[:count]))
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CalibrationError, match=r"tallies-.*is damaged: its SHA-256 is another one; remove it to measure anew$"):
        distance(_kept(program, _Data(0, 1), tmp_path, _choices(program)[:count]))
    assert len(runs) == before


@pytest.mark.parametrize("measure", MEASURES)
def test_each_measure_tells_its_steps_in_order(program: Program, measure: str) -> None:
    seen: list[tuple[str, int, int]] = []
    asked = _kept(program, _Data(0, 1), None)
    MEASURES[measure](replace(asked, context=replace(asked.context, progress=lambda *step: seen.append(step))))
    (total,) = {total for _, _, total in seen}
    assert [(what, done) for what, done, _ in seen] == [("measuring sensitivity", done) for done in range(1, total + 1)]
