"""One layer's new weight is integers of its bits times dyadic scales, never with more error than before; what cannot be fitted is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from float_programs import refusals
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context
from fxpress_passes.reconstruct import fit
from fxpress_passes.reconstruct.fit import Fitted, Fitter
from fxpress_passes.reconstruct.layers import Grid, Layer, layers_of
from fxpress_passes.reconstruct.methods import METHODS
from fxpress_passes.reconstruct.methods.task import How, Learnt, Task
from fxpress_passes.reconstruct.rescale import are_free
from fxpress_passes.reconstruct.walk import Decided, Pairs, walk
from low_bits import data, every_kind, simulated
from torch import Tensor

_OVERFLOW = "its sums of products over inputs of 16 bits would leave 2**30; let it read 8 bits, or give its weights fewer"
NAMES = ["conv_transpose2d", "linear"]


class Worse:
    """Every weight is the largest integer."""

    name, falls, moves = "worse", True, True

    def learn(self, task: Task) -> Learnt:
        return Learnt(torch.full_like(task.codes, task.most), task.scales)


def _pairs(program: Program) -> dict[str, tuple[Layer, list[tuple[Tensor, Tensor]]]]:
    found = {}

    def decide(layer: Layer, pairs: Pairs) -> Decided:
        found[layer.name] = layer, list(pairs())
        return {}

    walk(program, program, data(program).evidence.calibration.batches(program), layers_of(program, Context()), decide, sequential=True)
    return found


def _fitted(name: str, method: str, context: Context | None = None, **changes: object) -> tuple[Layer, Fitted | None]:
    program = simulated(every_kind(), 3)
    layer, pairs = _pairs(program)[name]
    layer = replace(layer, **changes)  # type: ignore[arg-type]
    fitter = Fitter(METHODS[method], How(steps=10), program, program, takes_mean=True)
    return layer, fitter.fit(layer, partial(iter, pairs), context or Context(), lambda share: None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_fitted(name: str, method: str) -> None:
    layer, found = _fitted(name, method)
    assert found is not None
    tensors = simulated(every_kind(), 3).tensors
    assert found.after < found.before
    assert found.bias is not None
    assert (found.weight is None) == (method == "bias")
    if found.scales is not None:
        assert are_free(layer, found.scales)
    if found.weight is not None:
        scales = (tensors[layer.scale] if found.scales is None else found.scales).float()
        steps = scales.reshape([-1 if axis == layer.axis else 1 for axis in range(found.weight.dim())])
        integers = (found.weight / steps).round()
        assert torch.equal(integers * steps, found.weight)
        assert float(integers.abs().max()) <= layer.most


def test_what_would_be_worse_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "worse", Worse())
    _, found = _fitted("linear", "worse")
    assert found is not None
    assert found.weight is None
    assert found.scales is None
    assert found.bias is not None
    assert found.after < found.before


def test_sums_over_short_inputs_that_could_overflow_are_refused() -> None:
    context = Context()
    _, found = _fitted("linear", "gptq", context, source=Grid(1e-3, -(1 << 30), 1 << 30))
    assert refusals(context) == [f"linear: {_OVERFLOW}"]
    assert found is not None
    assert found.weight is None


def test_a_layer_of_too_many_inputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "COLUMNS", 31)
    context = Context()
    assert _fitted("linear", "gptq", context)[1] is None
    assert refusals(context) == ["linear: each of its outputs reads 32 inputs, 31 are the most"]


def test_infinity_is_an_error_of_one_line() -> None:
    program = simulated(every_kind(), 3)
    layer, pairs = _pairs(program)["linear"]

    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield pairs[0][0], pairs[0][1] * float("nan")

    fitter = Fitter(METHODS["gptq"], How(), program, program, takes_mean=True)
    with pytest.raises(PassError, match=r"^reconstruct, node linear: what it reads or should give is NaN or infinite"):
        fitter.fit(layer, broken, Context(), lambda share: None)
    edit = program.edit()
    edit.tensors[layer.weight] = edit.tensors[layer.weight].detach() / 0
    spoilt = edit.finish()
    fitter = Fitter(METHODS["gptq"], How(), spoilt, spoilt, takes_mean=True)
    with pytest.raises(PassError, match=r"^reconstruct, node linear: its weight .* holds NaN or infinity"):
        fitter.fit(layer, partial(iter, pairs), Context(), lambda share: None)
