"""HAWQ-V3's ResNet-18: the published schemes, to the last convolution (arrays and citation in ``hawq_resnet18.json``)."""

from __future__ import annotations

import hawq
import pytest
import torch
from fxpress_ir import capture
from fxpress_ir.analysis.precision_ties import precision_ties
from fxpress_passes.allocate import Brute, Dynamic, Milp, Problem, Solver
from torch import Tensor, nn

PUBLISHED = tuple(hawq.DATA["published"].items())


@pytest.fixture(scope="module")
def free() -> Problem:
    return hawq.problem()


@pytest.mark.parametrize("solver", [Milp(), Dynamic(), Brute()], ids=lambda solver: solver.name)
@pytest.mark.parametrize(("budget", "published"), PUBLISHED, ids=lambda value: value)
def test_hawq_scheme(free: Problem, solver: Solver, budget: str, published: str) -> None:
    found = solver.solve(hawq.under(free, budget))
    assert hawq.scheme(found.decisions) == published
    assert found.gap == 0


def test_hawq_has_seven_schemes_of_nineteen_convolutions() -> None:
    assert len(PUBLISHED) == 7
    assert {len(scheme) for _, scheme in PUBLISHED} == {19} == {len(hawq.DATA["layers"])}


def test_hawq_latencies_losses_and_free_groups(free: Problem) -> None:
    assert len(free.units) == 16
    four, eight = ({unit.name: bits for unit in free.units} for bits in "48")
    assert [round(1e3 * free.costs(chosen)["latency"], 3) for chosen in (four, eight)] == [3.149, 5.344]
    assert [round(free.loss(chosen), 4) for chosen in (four, eight)] == [1.3077, 0.0043]


@pytest.mark.parametrize(("budget", "loss"), [("latency_0.5", 0.2027), ("size_0.5", 0.0745)])
def test_hawq_loss(free: Problem, budget: str, loss: float) -> None:
    assert round(Milp().solve(hawq.under(free, budget)).loss, 4) == loss


def test_hawq_bops_at_a_quarter_with_the_tie_that_the_published_scheme_breaks(free: Problem) -> None:
    assert hawq.scheme(Milp().solve(hawq.under(free, "bops_0.25")).decisions) == "8884848444444444444"


def test_hawq_two_budgets_at_once(free: Problem) -> None:
    budgets = {**hawq.under(free, "size_0.5").budgets, **hawq.under(free, "latency_0.5").budgets}
    both = Milp().solve(free.within(budgets))
    assert both == Milp().solve(free.within(dict(budgets)))
    assert both.chosen == Brute().solve(free.within(budgets)).chosen
    assert free.within(budgets).holds(both.costs)
    assert both.loss >= max(Milp().solve(hawq.under(free, budget)).loss for budget in ("size_0.5", "latency_0.5"))


class BasicBlock(nn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Conv2d(before, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    """With 4 channels first and 32 last; convolutions have the names of HAWQ's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.init = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        for stage, (before, channels) in enumerate([(4, 4), (4, 8), (8, 16), (16, 32)], start=1):
            first, second = BasicBlock(before, channels, 1 + (before < channels)), BasicBlock(channels, channels, 1)
            self.add_module(f"stage{stage}", nn.ModuleDict({"unit1": first, "unit2": second}))

    def forward(self, x: Tensor) -> Tensor:
        x = self.init(x)
        for stage in list(self.children())[1:]:
            x = stage["unit2"](stage["unit1"](x))  # type: ignore[index]
        return x


def test_hawq_ties_are_those_of_the_graph() -> None:
    program = capture(ResNet18().eval(), (torch.zeros(2, 3, 32, 32),))
    names = {
        node.name: str(node.args[1].target).removesuffix(".weight")
        for node in program.graph.nodes
        if node.op == "call_function" and len(node.args) > 1 and isinstance(node.args[1], torch.fx.Node)
    }
    shared = [{names[layer] for layer in tie.layers} for tie in precision_ties(program.graph) if tie.kind == "input"]
    assert shared == [{hawq.DATA["layers"][place] for place in places} for places in hawq.DATA["ties"]]
