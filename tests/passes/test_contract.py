"""Promises are held by differences of outputs; passes print as what rebuilds them; refusals are data."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
import torch
from fxpress_ir.errors import CalibrationError, PipelineError
from fxpress_passes import Close, Context, Exact, FoldBatchNorm, Lossy, Pass, PlaceQuantizers, Promise, QuantizeDyadic, Refused, Sparsify
from fxpress_passes.contract import difference, options_of
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, fx

NAN, INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Tune(Pass):
    name: ClassVar[str] = "tune"
    promise: ClassVar[Promise] = Exact()
    share: float = 0.5
    mode: str = "fast"
    sizes: tuple[int, ...] = (1, 2)


def _found(a: list[float], b: list[float]) -> tuple[bool, float, float]:
    found = difference((torch.tensor(a),), (torch.tensor(b),))
    return found.equal, found.relative, found.sqnr


def test_equal_outputs_differ_by_nothing() -> None:
    assert _found([1.0, -2.0], [1.0, -2.0]) == (True, 0.0, INFINITY)


def test_a_difference_is_relative_to_the_largest_value() -> None:
    equal, relative, sqnr = _found([4.0, 3.0], [4.0, 3.5])
    assert (equal, relative) == (False, 0.125)
    assert sqnr == pytest.approx(20.0, abs=1e-9)  # 10 log10(25 / 0.25)


def test_the_largest_relative_difference_of_all_outputs_counts() -> None:
    original = (torch.tensor([100.0]), torch.tensor([1.0]))
    assert difference(original, (torch.tensor([101.0]), torch.tensor([1.5]))).relative == 0.5


def test_integers_are_compared_as_numbers() -> None:
    found = difference((torch.tensor([200, 100], dtype=torch.uint8),), (torch.tensor([200, 150], dtype=torch.uint8),))
    assert (found.equal, found.relative) == (False, 0.25)


@pytest.mark.parametrize("other", [torch.tensor([-0.0]), torch.tensor([0.0], dtype=torch.float64), torch.tensor([0], dtype=torch.int32)])
def test_minus_zero_and_another_dtype_are_other_bits_but_the_same_numbers(other: Tensor) -> None:
    found = difference((torch.tensor([0.0]),), (other,))
    assert (found.equal, found.relative, found.sqnr) == (False, 0.0, INFINITY)


def test_nan_equals_nan_and_infinity_equals_infinity() -> None:
    assert _found([NAN, -INFINITY, 2.0], [NAN, -INFINITY, 2.0]) == (True, 0.0, INFINITY)
    assert _found([NAN, INFINITY, 2.0], [NAN, INFINITY, 1.0])[1] == 0.5


@pytest.mark.parametrize("other", [NAN, INFINITY])
def test_a_value_that_is_no_longer_finite_holds_no_promise(other: float) -> None:
    found = difference((torch.tensor([1.0, 2.0]),), (torch.tensor([1.0, other]),))
    assert not any(promise.held(found) for promise in (Exact(), Close(1e3, "any"), Lossy(-1e3)))


def test_empty_outputs_are_equal() -> None:
    assert difference((torch.zeros(0, 3),), (torch.zeros(0, 3),)).equal


def test_promises_are_held_up_to_their_bounds() -> None:
    exact = difference((torch.tensor([1.0]),), (torch.tensor([1.0]),))
    near = difference((torch.tensor([8.0]),), (torch.tensor([9.0]),))
    assert [promise.held(exact) for promise in (Exact(), Close(0.0, "why"), Lossy(300.0))] == [True, True, True]
    assert [promise.held(near) for promise in (Exact(), Close(0.125, "why"), Close(0.12, "why"))] == [False, True, False]
    assert [Lossy(18.0).held(near), Lossy(18.1).held(near)] == [True, False]  # 20 log10 8 = 18.06 dB


def test_promises_print_as_what_they_promise() -> None:
    assert list(map(str, (Exact(), Close(1e-4, "rounding"), Lossy(15.0)))) == [
        "exact", "close 0.0001 (rounding)", "lossy, at least 15 dB",
    ]  # fmt: skip


def test_a_pass_prints_only_the_options_that_differ_from_their_defaults() -> None:
    assert str(FoldBatchNorm()) == "fold-batch-norm"
    assert str(QuantizeDyadic(weight_bits=8)) == "quantize-dyadic"
    assert str(PlaceQuantizers(weight_bits=4, integer_only=True)) == "place-quantizers{weight_bits=4, integer_only=true}"
    assert str(Tune(0.25, 'a "b"', (3,))) == r'tune{share=0.25, mode="a \"b\"", sizes=[3]}'


def test_options_are_listed_in_order_with_their_defaults() -> None:
    assert list(options_of(Tune).items()) == [("share", 0.5), ("mode", "fast"), ("sizes", (1, 2))]
    assert options_of(FoldBatchNorm) == {"rewrite": True}


def test_an_option_that_only_python_can_give_is_neither_printed_nor_parsed() -> None:
    assert "loss" not in options_of(Sparsify)
    assert str(Sparsify(sparsity=0.25, loss=lambda outputs, batch: outputs[0].sum())) == "sparsify{sparsity=0.25}"
    with pytest.raises(PipelineError, match="unknown option 'loss'"):
        Pipeline.parse("sparsify{loss=1}")


def test_a_pass_is_a_value() -> None:
    assert Tune(share=0.25) == Tune(0.25)
    with pytest.raises(FrozenInstanceError):
        Tune().share = 1.0  # type: ignore[misc]


def test_a_pass_without_apply_says_so() -> None:
    with pytest.raises(TypeError, match="Tune does not define apply"):
        Tune().apply(None, Context())  # type: ignore[arg-type]


def test_only_a_sum_has_other_parts_than_itself() -> None:
    assert Tune().parts() == (Tune(),)
    assert [part.name for part in QuantizeDyadic(4).parts()] == ["place-quantizers", "to-integer"]


def test_a_refusal_names_node_reason_and_way_on() -> None:
    context = Context()
    node = fx.Graph().placeholder("y")
    context.refuse(node, "it is an input")
    context.refuse(node, "it is an input", "leave it")
    assert context.refusals == [Refused("y", "it is an input"), Refused("y", "it is an input", "leave it")]
    assert list(map(str, context.refusals)) == ["y: it is an input", "y: it is an input; leave it"]


def test_evidence_without_calibration_is_an_error() -> None:
    with pytest.raises(CalibrationError, match=r"needs calibration data; give Pipeline.run calibration=batches"):
        _ = Context().evidence
