"""Intervals start at types and constants, pass through shape operators as hulls, and stop where no rule leads on."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Edit, Program
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.ops import Interval
from support import aten, built, fxp, multipliers, residual_net
from torch import fx


def bounds(interval: Interval) -> tuple[int, int]:
    return int(interval.low.min()), int(interval.high.max())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.int8, (-128, 127)), (torch.uint8, (0, 255)), (torch.int64, (-(2**63), 2**63 - 1)), (torch.bool, (0, 1))],
)
def test_an_integer_input_takes_all_values_of_its_type(dtype: torch.dtype, expected: tuple[int, int]) -> None:
    program = built((1, 3), lambda edit, x: edit.call(aten.clone.default, x), dtype=dtype)
    ranges = integer_ranges(program.graph, program.tensors)
    assert [bounds(ranges.intervals[node]) for node in (*program.placeholders(), *program.outputs())] == [expected] * 2
    assert ranges.facts == ranges.unproved == ()


def added_to_constant() -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        table = edit.add_tensor("table", torch.tensor([-3, 9, 5], dtype=torch.int8))
        return edit.call(fxp.add.default, x, table, 1, 4, 1, -128, 127, torch.int8)

    return built((1, 3), body, dtype=torch.int8)


def test_a_constant_lies_between_its_own_values() -> None:
    program = added_to_constant()
    ranges = integer_ranges(program.graph, program.tensors)
    assert bounds(ranges.intervals[program.outputs()[0]]) == ((-128 - 12) // 2, round((127 + 36) / 2))
    assert ranges.unproved == ()


def test_a_shape_operator_passes_the_hull_of_all_channels() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", torch.tensor([[1], [5]], dtype=torch.int8))
        acc = edit.call(fxp.linear.default, x, weight, edit.add_tensor("bias", multipliers([1000, 0])))
        return edit.call(aten.unsqueeze.default, acc, 0)

    program = built((1, 1), body, dtype=torch.uint8)
    intervals = integer_ranges(program.graph, program.tensors).intervals
    acc, moved = (intervals[node] for node in program.graph.nodes if node.op == "call_function")
    assert (acc.low.tolist(), acc.high.tolist(), acc.axis) == ([1000, 0], [1255, 1275], -1)
    assert (bounds(moved), moved.low.shape, moved.axis) == ((0, 1275), (), None)
    assert acc.magnitude.tolist() == [1255, 1275]


def test_facts_come_in_program_order_and_all_hold_in_the_hand_made_net() -> None:
    program = residual_net()
    ranges = integer_ranges(program.graph, program.tensors)
    order = [node.name for node in program.graph.nodes]
    places = [order.index(fact.node) for fact in ranges.facts]
    assert places == sorted(places)
    assert all(fact.holds for fact in ranges.facts)
    assert ranges.unproved == ()


def test_what_follows_an_operator_without_a_rule_is_unproved_as_well() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        odd = edit.call(aten.bitwise_not.default, x, name="odd")
        return edit.call(fxp.max_pool2d.default, odd, [2, 2], [1, 1], [0] * 4, [1, 1], name="pooled")

    program = built((1, 2, 4, 4), body, dtype=torch.uint8)
    assert [node.name for node in integer_ranges(program.graph, program.tensors).unproved] == ["odd", "pooled"]
