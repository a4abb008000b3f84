"""What layers read in the first calibration batch is what folds are held on; without data they are held on random inputs."""

from __future__ import annotations

import pytest
import torch
from float_programs import captured, measured, sample
from fxpress_ir import Program
from fxpress_passes import Context, FoldAdapters
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.fold.certificate import Certificate
from fxpress_passes.fold.observed import Observed
from layered import Module, drawn, layer_of
from torch.nn import functional

_aten = torch.ops.aten


def _adapted() -> Program:
    """tanh(w(relu(x)) + b(a(relu(x)))), then a layer alone."""
    parts = {"w": layer_of(8, 12), "a": layer_of(8, 3), "b": layer_of(3, 12), "out": layer_of(12, 4)}
    return captured(Module(lambda m, x: (lambda r: m.out(torch.tanh(m.w(r) + m.b(m.a(r)))))(x.relu()), **parts), 1, 5, 8)


def _inputs(context: Context) -> list[str]:
    return [fact.inputs for fact in context.notes if isinstance(fact, Certificate)]


def test_values_are_those_of_the_first_batch() -> None:
    program = _adapted()
    observed = Observed(program, measured(program))
    (x,) = sample(program, 8, 0)
    (relu,) = program.graph.find_nodes(op="call_function", target=_aten.relu.default)
    (tanh,) = program.graph.find_nodes(op="call_function", target=_aten.tanh.default)
    assert torch.equal(observed.of(relu), x.relu())
    assert observed.of(tanh).shape == (8, 5, 12)
    assert [observed.of(node) for node in program.graph.find_nodes(op="call_function", target=_aten.add.Tensor)] == [None]
    assert observed.sizes == dict.fromkeys(program.symbols(), 8)


@pytest.mark.parametrize("context", [Context(), Context(Evidence(None))], ids=["nothing", "a state alone"])
def test_without_data_nothing_is_known(context: Context) -> None:
    program = _adapted()
    observed = Observed(program, context)
    assert all(observed.of(node) is None for node in program.graph.nodes)
    assert observed.sizes == {}


def test_no_more_than_the_limit_is_kept_and_nothing_that_is_not_finite() -> None:
    program = _adapted()
    (x, *_), (relu, *_) = program.placeholders(), program.graph.find_nodes(op="call_function", target=_aten.relu.default)
    observed = Observed(program, measured(program), most=8 * 5 * 8 * 4)
    assert (observed.of(x) is None, observed.of(relu) is None) == (False, True)
    halves = captured(Module(lambda m, x: m.w(x * 3e38 * 3e38), w=layer_of(8, 4)), 1, 8)
    assert [node.name for node in halves.graph.nodes if Observed(halves, measured(halves)).of(node) is not None] == ["x"]


@pytest.mark.parametrize("batch", [None, 5])
def test_a_fold_says_on_which_inputs_it_was_held(batch: int | None) -> None:
    program = _adapted()
    context = Context() if batch is None else measured(program, 1, batch)
    FoldAdapters().apply(program, context)
    assert _inputs(context) == ["random" if batch is None else "calibration"]
    assert all(fact.residual < 1e-6 for fact in context.notes if isinstance(fact, Certificate))


def test_the_data_decide() -> None:
    """Branches that cancel, in a channel where random inputs are large and the data are 0."""
    weight = drawn(12, 8)
    weight[:, 0] *= 1e9
    body = lambda m, x: torch.tanh(m.w(x) + functional.linear(x, m.b) - functional.linear(x, m.b) * 0.9999)  # noqa: E731
    program = captured(Module(body, w=layer_of(8, 12), b=weight), 1, 5, 8)
    (x,) = sample(program, 4)
    x[..., 0] = 0
    found = {}
    for name, context in {"random": Context(), "data": Context(Evidence(Calibration([(x,)])))}.items():
        FoldAdapters().apply(program, context)
        found[name] = (_inputs(context), bool(context.refusals))
    assert found == {"random": ([], True), "data": (["calibration"], False)}
