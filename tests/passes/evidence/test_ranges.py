"""Ranges are the smallest and largest value of each float tensor, over all batches together."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from float_programs import captured, residual_program, sample
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence import Range
from fxpress_passes.evidence.ranges import Ranges
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx

_bounds = st.floats(allow_nan=False)
_ranges = st.tuples(_bounds, _bounds).map(sorted).map(lambda ends: Range(*ends))


def _measured(program: Program, batches: list[tuple[Tensor, ...]]) -> dict[str, Range]:
    ranges = Ranges(program)
    for batch in batches:
        ranges.observe(batch)
    return ranges.found


@lru_cache
def _mixed() -> Program:
    """A float path, an integer path, a tuple and a size: only float tensors have a range."""
    return captured(lambda x: torch.relu(x).reshape(x.shape[0], -1) + x.argmax(1, keepdim=True) + torch.split(x, [1, 2], 1)[0], 1, 3)


@given(_ranges, _ranges, _ranges)
def test_merging_is_a_union(one: Range, two: Range, three: Range) -> None:
    assert one.merge(two) == two.merge(one)
    assert one.merge(two).merge(three) == one.merge(two.merge(three))
    assert one.merge(one) == one


def test_ranges_are_those_of_every_nodes_values() -> None:
    program = residual_program()
    batches = [sample(program, batch, seed) for seed, batch in enumerate((4, 1, 7))]
    found = _measured(program, batches)
    values: dict[str, list[Tensor]] = {}

    class Record(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Tensor:
            result: Tensor = super().run_node(n)
            values.setdefault(n.name, []).append(result)
            return result

    for batch in batches:
        Record(program.module).run(*batch)
    expected = {node.name for node in program.graph.nodes if node.op in ("placeholder", "call_function")}
    assert found.keys() == expected
    for name in expected:
        joined = torch.cat([value.detach().reshape(-1) for value in values[name]])
        assert found[name] == Range(float(joined.min()), float(joined.max()))


def test_ranges_of_batches_merge_to_the_range_of_their_union() -> None:
    program = residual_program()
    batches = [sample(program, 3, seed) for seed in range(3)]
    apart = [_measured(program, [batch]) for batch in batches]
    together = _measured(program, batches)
    assert all(found == apart[0][name].merge(apart[1][name]).merge(apart[2][name]) for name, found in together.items())


def test_only_float_tensors_have_a_range() -> None:
    found = _measured(_mixed(), [(torch.tensor([[1.0, -2.0, 3.0]]),)])
    by_name = {node.name: node.meta["val"] for node in _mixed().graph.nodes if node.op != "output"}
    assert found["x"] == Range(-2.0, 3.0)
    assert found["relu"] == Range(0.0, 3.0)
    floats = {name for name, value in by_name.items() if isinstance(value, Tensor) and value.is_floating_point()}
    assert found.keys() == floats
    assert len(by_name) > len(floats)


def test_an_empty_batch_has_no_range() -> None:
    assert _measured(captured(torch.relu, 1, 3), [(torch.zeros(0, 3),)]) == {}


@pytest.mark.parametrize(("value", "node"), [(-1.0, "log"), (0.0, "log"), (1e39, "x")])
def test_a_value_that_is_not_finite_is_an_error_that_names_its_node(value: float, node: str) -> None:
    program = captured(torch.log, 1, 2)
    with pytest.raises(CalibrationError) as caught:
        _measured(program, [(torch.ones(1, 2),), (torch.tensor([[1.0, value]]),)])
    assert str(caught.value) == f"{node}: the value is NaN or infinite on calibration data; check the model and the data"


def test_what_a_mask_makes_infinite_has_no_range() -> None:
    program = captured(lambda x: torch.ops.aten._safe_softmax(torch.where(x > 0, x, -float("inf")), -1), 1, 3)
    found = _measured(program, [(torch.tensor([[-1.0, 2.0, 0.5], [-1.0, -1.0, -1.0]]),)])
    assert {name.split("_")[0] for name in found} == {"x", ""}
    with pytest.raises(CalibrationError, match="the value is NaN or infinite"):
        _measured(captured(lambda x: x.log(), 1, 3), [(torch.zeros(1, 3),)])
