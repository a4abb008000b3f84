"""The operator table is complete, and its proof rules are sound on random programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fxpress_ir import Edit, Program, verify
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.dyadic import saturation_bounds, shift_for
from fxpress_ir.ops import INTEGER_OPERATORS, OPERATORS, SHAPE_OPERATORS, Interval, arguments, constant
from hypothesis import given, settings
from hypothesis import strategies as st
from positions import positions
from support import aten, attending_net, built, fxp, moving_net, residual_net
from torch import Tensor, fx


def test_every_operator_of_the_namespace_is_a_row() -> None:
    registered = {name.removeprefix("fxp::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("fxp::")}
    assert registered == {row.name for row in OPERATORS.values()}
    assert all(row.overload is overload is getattr(fxp, row.name).default for overload, row in OPERATORS.items())


def test_every_integer_operator_has_a_proof_rule_and_fake_quantisers_have_none() -> None:
    assert all(callable(row.prove) for row in INTEGER_OPERATORS.values())
    assert {row.name for row in OPERATORS.values() if row.prove is None} == {"fake_quantize", "fake_quantize_channels"}


def test_every_integer_operator_stands_in_the_hand_made_nets() -> None:
    used = {
        node.target
        for net in (residual_net(), moving_net(), attending_net(), positions())
        for node in net.graph.nodes
        if node.op == "call_function"
    }
    assert used >= INTEGER_OPERATORS.keys()


@pytest.mark.parametrize("overload", [*OPERATORS, *sorted(SHAPE_OPERATORS, key=str)], ids=str)
def test_no_operator_writes(overload: Any) -> None:
    assert not overload._schema.is_mutable


SAMPLES: dict[Any, tuple[Any, ...]] = {
    aten.flatten.using_ints: (1,),
    aten.view.default: ([3, 8],),
    aten.reshape.default: ([8, 3],),
    aten.permute.default: ([2, 0, 1],),
    aten.transpose.int: (0, 1),
    aten.unsqueeze.default: (0,),
    aten.squeeze.dim: (1,),
    aten.squeeze.dims: ([1],),
    aten.slice.Tensor: (0, 0, 2**63 - 1, 1),
    aten.select.int: (0, 0),
    aten.expand.default: ([1, 3, 2, 4],),
    aten.contiguous.default: (),
    aten.clone.default: (),
}


@pytest.mark.parametrize("overload", sorted(SHAPE_OPERATORS, key=str), ids=str)
def test_a_shape_operator_moves_every_value_once(overload: Any) -> None:
    x = torch.randperm(24, generator=torch.Generator().manual_seed(0)).to(torch.int8).reshape(3, 2, 4)
    x = x[None] if overload is aten.select.int else x
    assert sorted(overload(x, *SAMPLES[overload]).flatten().tolist()) == list(range(24))


class _Recorder(fx.Interpreter):
    """Keeps what each node computed."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module, garbage_collect_values=False)

    def values(self, x: Tensor) -> dict[str, Any]:
        self.run(x)
        return {node.name: value for node, value in self.env.items()}


class _Writer:
    """Writes random operators behind one another; keeps within what the verifier accepts."""

    def __init__(self, edit: Edit, seed: int) -> None:
        self.edit = edit
        self.random = np.random.default_rng(seed)
        self.tensors = 0

    def tensor(self, values: np.ndarray, dtype: torch.dtype) -> fx.Node:
        self.tensors += 1
        return self.edit.add_tensor(f"t{self.tensors}", torch.from_numpy(np.asarray(values)).to(dtype))

    def weight(self, *shape: int) -> fx.Node:
        """Half the time only the ends of the range, where sums are largest."""
        ends = self.random.random() < 0.5
        return self.tensor(self.random.choice([-127, 0, 127], shape) if ends else self.random.integers(-127, 128, shape), torch.int8)

    def bias(self, count: int) -> fx.Node | None:
        most = int(10 ** self.random.uniform(2, 8))
        return None if self.random.random() < 0.3 else self.tensor(self.random.integers(-most, most, count), torch.int32)

    def limits(self) -> tuple[int, int, torch.dtype]:
        """Ranges without 0 among them: padding adds one."""
        options = [(0, 255, torch.uint8), (-128, 127, torch.int8), (-20, 19, torch.int8), (3, 9, torch.uint8), (-30, -2, torch.int8)]
        qmin, qmax, dtype = options[self.random.integers(len(options))]
        return qmin, qmax, dtype

    def requantized(self, acc: fx.Node, count: int, axis: int) -> fx.Node:
        largest = 2.0 ** self.random.uniform(-13, 1)
        c = shift_for(largest)
        b = self.random.integers(1, max(2, int(largest * 2**c)), count if self.random.random() < 0.7 else 1)
        qmin, qmax, dtype = self.limits()
        return self.edit.call(fxp.requantize.default, acc, self.tensor(b, torch.int32), c, qmin, qmax, axis, dtype)

    def convolved(self, x: fx.Node, channels: int) -> fx.Node:
        acc = self.edit.call(fxp.conv2d.default, x, self.weight(3, channels, 3, 3), self.bias(3), [1, 1], [1] * 4, [1, 1], 1)
        return self.requantized(acc, 3, 1)

    def pooled(self, x: fx.Node) -> fx.Node:
        if self.random.random() < 0.5:
            return self.edit.call(fxp.max_pool2d.default, x, [3, 3], [1, 1], [1] * 4, [1, 1])
        return self.requantized(self.edit.call(fxp.sum_pool2d.default, x, [3, 3], [1, 1], [1] * 4), 3, 1)

    def added(self, x: fx.Node, y: fx.Node) -> fx.Node:
        qmin, qmax, dtype = self.limits()
        factors = (int(self.random.integers(1, 2**15)), int(self.random.integers(1, 2**15)))
        return self.edit.call(fxp.add.default, x, y, *factors, int(self.random.integers(13, 17)), qmin, qmax, dtype)

    def classified(self, x: fx.Node, size: int) -> fx.Node:
        flat = self.edit.call(aten.flatten.using_ints, x, 1)
        acc = self.edit.call(fxp.linear.default, flat, self.weight(4, 3 * size * size), self.bias(4))
        return self.requantized(acc, 4, -1)


def random_program(seed: int, size: int = 3) -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        writer = _Writer(edit, seed)
        qmin, qmax, dtype = writer.limits()
        made = [writer.convolved(edit.call(fxp.quantize.default, x, 0.5, qmin, qmax, dtype), 2)]
        for _ in range(writer.random.integers(1, 5)):
            last, other = made[-1], made[writer.random.integers(len(made))]
            step = writer.random.integers(3)
            made.append([lambda: writer.convolved(last, 3), lambda: writer.pooled(last), lambda: writer.added(last, other)][step]())  # noqa: B023
        return edit.call(fxp.dequantize.default, writer.classified(made[-1], size), 0.1)

    return built((1, 2, size, size), body)


def _spread(bound: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    return bound.reshape([-1 if axis is not None and d == axis % rank else 1 for d in range(rank)])


def assert_inside(value: Tensor, interval: Interval) -> None:
    low, high = (_spread(bound, interval.axis, value.dim()) for bound in (interval.low, interval.high))
    found = value.numpy().astype(np.int64)
    assert ((low <= found) & (found <= high)).all()


@given(st.integers(0, 2**30))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_every_value_lies_in_its_proved_interval_and_every_accumulator_in_its_fact(seed: int) -> None:
    program = random_program(seed)
    verify(program)
    ranges = integer_ranges(program.graph, program.tensors)
    facts = {(fact.node, fact.what): fact for fact in ranges.facts}
    noise = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) * 60
    extremes = torch.where(noise > 0, 1e4, -1e4)
    values = _Recorder(program).values(torch.cat([noise, extremes, torch.full((1, 2, 3, 3), 1e4), torch.full((1, 2, 3, 3), -1e4)]))
    for node, interval in ranges.intervals.items():
        if node.target is not fxp.dequantize.default:
            assert_inside(values[node.name], interval)
        if node.target in (fxp.conv2d.default, fxp.linear.default):
            fact = facts[node.name, "accumulator (any order)"]
            assert fact.low <= int(values[node.name].min()) <= int(values[node.name].max()) <= fact.high
        if node.target is fxp.requantize.default:
            named = arguments(node)
            b, fact = constant(named["b"], program.tensors), facts[node.name, "product and rounding term"]
            x = values[named["x"].name].numpy().astype(np.int64)
            bounds = (_spread(bound, named["axis"], x.ndim) for bound in saturation_bounds(b, named["c"], named["qmin"], named["qmax"]))
            products = np.clip(x, *bounds) * _spread(b, named["axis"], x.ndim)
            assert fact.low <= products.min() <= products.max() <= fact.high - 2 ** (named["c"] - 1)
