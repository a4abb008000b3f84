"""Every solver against trying all: MILP and dynamic programming find the same answer, greedy one that holds and is no better."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path

import pytest
from fxpress_ir.errors import InfeasibleError, PassError
from fxpress_passes.allocate import SOLVERS, Answer, Bisection, Brute, Choice, Dynamic, Greedy, Milp, Pair, Problem, Solver, Unit, linear
from fxpress_passes.allocate.solver import equal_losses, first_of_equals
from fxpress_passes.allocate.solvers import milp as milp_file
from fxpress_passes.allocate.solvers.greedy import search
from hypothesis import given, settings
from problems import problems, three, unit
from scipy.optimize import OptimizeResult

DOCS = (Path(__file__).parents[3] / "docs/allocate.md").read_text()


def solved(solver: Solver, problem: Problem) -> Answer | str:
    """The answer, or the line that says why there is none."""
    try:
        return solver.solve(problem)
    except PassError as error:
        return str(error)


def by_hand(problem: Problem) -> dict[str, str] | None:
    """The first of the best answers, all of them written out."""
    names = [each.name for each in problem.units]
    every = [dict(zip(names, taken, strict=True)) for taken in product(*([c.name for c in each.choices] for each in problem.units))]
    allowed = [chosen for chosen in every if problem.allows(chosen)]
    return first_of_equals(problem, allowed) if allowed else None


@settings(deadline=None, derandomize=True, max_examples=30)
@given(problem=problems())
def test_brute_tries_all(problem: Problem) -> None:
    found = solved(Brute(), problem)
    expected = by_hand(problem)
    assert isinstance(found, str) if expected is None else isinstance(found, Answer) and found.chosen == expected


@settings(deadline=None, derandomize=True, max_examples=30)
@given(problem=problems())
def test_milp_finds_what_brute_does(problem: Problem) -> None:
    found, expected = solved(Milp(), problem), solved(Brute(), problem)
    if isinstance(expected, str):
        assert found == expected
        return
    assert isinstance(found, Answer)
    assert (found.chosen, found.loss, found.costs) == (expected.chosen, expected.loss, expected.costs)
    assert found.gap is not None
    assert found.gap <= 1e-9


@settings(deadline=None, derandomize=True, max_examples=20)
@given(problem=problems(exactly=1, pairs=False))
def test_dynamic_finds_what_brute_does(problem: Problem) -> None:
    found, expected = solved(Dynamic(), problem), solved(Brute(), problem)
    if isinstance(expected, str):
        assert found == expected
        return
    assert isinstance(found, Answer)
    assert (found.chosen, found.gap) == (expected.chosen, 0)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(problem=problems(exactly=1, pairs=False))
def test_dynamic_is_as_good_as_its_resolution_says(problem: Problem) -> None:
    ((resource, limit),) = problem.budgets.items()
    step = abs(limit) / 10 or 1.0
    found, expected = solved(Dynamic(step), problem), solved(Brute(), problem)
    if isinstance(expected, str):
        assert found == expected
        return
    assert isinstance(found, Answer)
    assert problem.holds(found.costs)
    assert found.bound is not None
    assert found.bound <= equal_losses(expected.loss) <= equal_losses(equal_losses(found.loss))
    tighter = solved(Brute(), problem.within({resource: limit - step * len(problem.units)}))
    assert isinstance(tighter, str) or found.loss <= equal_losses(tighter.loss)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(problem=problems(exactly=1, pairs=False))
def test_the_frontier_has_every_best_answer(problem: Problem) -> None:
    ((resource, _),) = problem.budgets.items()
    frontier = Dynamic().frontier(problem, resource)
    for before, after in pairwise(frontier):
        assert before.costs[resource] < after.costs[resource]
        assert before.loss > after.loss
    for answer in frontier:
        assert Brute().solve(problem.within({resource: answer.costs[resource]})).loss == pytest.approx(answer.loss, rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(problem=problems())
def test_greedy_holds_and_is_no_better(problem: Problem) -> None:
    expected = solved(Brute(), problem)
    chosen = search(problem)
    if isinstance(expected, str):
        assert chosen is None
        assert solved(Greedy(), problem) == expected
        return
    if chosen is None:
        with pytest.raises(PassError, match="single steps lead to no answer, and there are some; solve by milp"):
            Greedy().solve(problem)
        return
    found = Greedy().solve(problem)
    assert found.chosen == chosen
    assert found.gap is None
    assert problem.allows(found.chosen)
    assert equal_losses(found.loss) >= expected.loss


def test_greedy_reaches_every_single_budget() -> None:
    for limit in range(10, 21):
        assert Greedy().solve(three(size=limit)).costs["size"] <= limit


@settings(deadline=None, derandomize=True, max_examples=10)
@given(problem=problems())
def test_the_same_problem_has_the_same_answer(problem: Problem) -> None:
    for solver in (Milp(), Greedy(), Brute()):
        assert solved(solver, problem) == solved(solver, Problem.from_json(problem.to_json()))


def test_of_equal_layers_the_later_ones_change() -> None:
    equal = tuple(unit(f"u{place}", w8=(0, 4), w4=(1, 2)) for place in range(12))
    for solver in (Milp(), Brute(), Dynamic()):
        found = solver.solve(Problem(equal, {"size": 40}))
        assert "".join(choice[-1] for choice in found.chosen.values()) == "888888884444"
    assert Milp(gap=0.1).solve(Problem(equal, {"size": 40})).loss == 4


def hard(count: int) -> Problem:
    """Losses and sizes that hardly differ in what they lose for what they save, under half of the sizes."""
    units = tuple(
        Unit(
            f"u{i}",
            tuple(Choice(str(k), (k * 100 + (i * 37 + k * 11) % 17) / 7, {"size": 1e3 - k * 100 - (i * 53 + k) % 19}) for k in range(8)),
        )
        for i in range(count)
    )
    return Problem(units, {"size": 650.5 * count})


def test_losses_that_cancel_are_proved_to_what_highs_tells_apart() -> None:
    units = (unit("a", x=(25e7,), y=(5e8 / 7,)), unit("b", x=(2e9 / 7,), y=(25e7 / 7,), z=(425e7 / 7,)))
    pairs = (Pair(("b", "y"), ("a", "x"), -2e9 / 7), Pair(("a", "y"), ("b", "z"), -25e7), Pair(("b", "y"), ("a", "y"), forbidden=True))
    found = Milp().solve(Problem(units, {}, pairs))
    assert found.chosen == {"a": "x", "b": "y"}
    assert abs(found.loss) < 1e-6
    assert found.gap == 0


def test_milp_stopped_early_says_how_far_it_is() -> None:
    problem = hard(30)
    best = Dynamic().solve(problem)
    rough = Milp(gap=0.5).solve(problem)
    assert rough.gap is not None
    assert rough.bound is not None
    assert rough.bound <= best.loss <= rough.loss
    assert problem.allows(rough.chosen)
    assert rough.gap <= 0.5


def test_milp_without_a_bound_from_highs_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = milp_file.best

    def without_bound(*given: object, **options: object) -> object:
        model, found = solve(*given, **options)  # type: ignore[arg-type]
        return model, dataclasses.replace(found, bound=float("-inf"))

    monkeypatch.setattr(milp_file, "best", without_bound)
    pair = Pair(("a", "w4"), ("b", "w4"), -0.5)
    found = Milp().solve(Problem(three().units, {"size": 14}, (pair,)))
    assert (found.loss, found.bound) == (2.5, -0.5)


def test_when_time_is_up_the_best_so_far_has_its_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = linear.milp

    def stopped(*given: object, **options: object) -> OptimizeResult:
        result = solve(*given, **options)
        return OptimizeResult(result, status=1, mip_dual_bound=result.fun / 4)

    monkeypatch.setattr(linear, "milp", stopped)
    found = Milp(seconds=1e-3).solve(three(size=14))
    assert (found.loss, found.gap) == (3, pytest.approx(0.75))


@pytest.mark.parametrize(
    ("solver", "problem", "what"),
    [
        (Dynamic(), three(size=14, latency=8), "dynamic takes one budget, not 2; solve by milp"),
        (Dynamic(), three(), "dynamic takes one budget, not 0"),
        (Dynamic(), Problem(three().units, {"size": 14}, (Pair(("a", "w4"), ("b", "w4"), 1),)), "dynamic takes no pairs; solve by milp"),
        (Dynamic(most=3), three(size=20), "sums are too many; give a resolution"),
        (Brute(most=7), three(size=14), "8 answers are too many to try; solve by milp"),
        (Bisection(lambda _: 1.0, 0.9), three(), "'' is no resource; one of size, latency"),
    ],
)
def test_what_a_solver_does_not_take_is_refused(solver: Solver, problem: Problem, what: str) -> None:
    with pytest.raises(PassError) as raised:
        solver.solve(problem)
    assert what in str(raised.value)


class Counted:
    """Accuracy 1, less what is lost to 4 bits; how often it is asked is counted."""

    def __init__(self, **lost: float) -> None:
        self.lost, self.asked = lost, list[str]()

    def __call__(self, decisions: Mapping[str, str]) -> float:
        self.asked.append("".join(choice[-1] for choice in decisions.values()))
        return 1 - sum(self.lost.get(name, 0.0) for name, choice in decisions.items() if choice == "w4")


def test_bisection_takes_the_most_steps_that_keep_the_floor() -> None:
    measure = Counted(a=0.01, b=0.02, c=0.1)
    found = Bisection(measure, 0.96, "size").solve(three())
    assert found.decisions == {"a": "w4", "b": "w4", "c": "w8"}
    assert measure.asked == ["448", "444"]
    assert found.gap is None


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 16, 31])
def test_bisection_measures_a_logarithm_of_the_steps(count: int) -> None:
    units = tuple(unit(f"u{place}", w8=(0, 4), w4=(place + 1, 2)) for place in range(count))
    for kept in range(count + 1):
        measure = Counted(**{f"u{place}": 0.0 if place < kept else 1.0 for place in range(count)})
        found = Bisection(measure, 0.5).solve(Problem(units, {"size": 4 * count}))
        assert list(found.decisions.values()) == ["w4"] * kept + ["w8"] * (count - kept)
        assert len(measure.asked) <= count.bit_length() + (kept == 0)  # floor(log2 count) + 1
        assert "".join(choice[-1] for choice in found.decisions.values()) in measure.asked


def test_bisection_orders_by_what_is_lost_together() -> None:
    units = tuple(unit(name, w8=(0, 4), w4=(loss, 2)) for name, loss in (("a", 1), ("b", 1.5), ("c", 2)))
    measure = Counted(c=0.5)
    alone = Bisection(measure, 0.9).solve(Problem(units, {"size": 12}))
    assert alone.decisions == {"a": "w4", "b": "w4", "c": "w8"}
    together = Problem(units, {"size": 12}, (Pair(("a", "w4"), ("b", "w4"), 3),))
    measure = Counted(b=0.5)
    assert Bisection(measure, 0.9).solve(together).decisions == {"a": "w4", "b": "w8", "c": "w4"}


@pytest.mark.parametrize(
    ("problem", "floor", "binding", "what"),
    [
        (three(size=14), 1.1, ("accuracy",), "accuracy 1.1 is not reached even by the least loss of every unit; lower the floor"),
        (three(size=12), 0.96, ("accuracy", "size"), "size at most 12 B cannot be held at accuracy 0.96; the nearest found is size 14 B"),
    ],
)
def test_bisection_says_what_accuracy_excludes(problem: Problem, floor: float, binding: tuple[str, ...], what: str) -> None:
    with pytest.raises(InfeasibleError) as raised:
        Bisection(Counted(a=0.01, b=0.02, c=0.1), floor).solve(problem)
    assert what in str(raised.value)
    assert raised.value.binding == binding


@pytest.mark.parametrize("kind", SOLVERS, ids=lambda kind: kind.name)
def test_every_solver_is_what_its_file_is_called(kind: type[Solver]) -> None:
    assert kind.__module__.rpartition(".")[2] == kind.name == kind.__name__.lower()
    assert dataclasses.is_dataclass(kind)
    assert kind.__doc__
    budgets, pairs = "any" if kind.most_budgets is None else "one", "yes" if kind.pairs else "no"
    assert f"| `{kind.name}` | {budgets} | {pairs} |" in DOCS


def test_a_block_that_may_leave_takes_its_layers_with_it() -> None:
    layers = tuple(unit(name, w8=(0, 4), w4=(1, 2), dropped=(0, 0)) for name in "ab")
    block = unit("block", keep=(0, 0), drop=(1.5, 0))
    pairs = [Pair(("block", "keep"), (name, "dropped"), forbidden=True) for name in "ab"]
    pairs += [Pair(("block", "drop"), (name, bits), forbidden=True) for name in "ab" for bits in ("w8", "w4")]
    problem = Problem((*layers, block, unit("c", w8=(0, 4), w4=(9, 2))), {"size": 8}, tuple(pairs))
    for solver in (Milp(), Brute()):
        assert solver.solve(problem).chosen == {"a": "dropped", "b": "dropped", "block": "drop", "c": "w8"}
        assert solver.solve(problem.within({"size": 9})).chosen["block"] == "drop"
        assert solver.solve(problem.within({"size": 10})).chosen["block"] == "keep"
