"""Random branches of linear operators: composed, they are what the graph computes, and they fold into the layer beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import pytest
import torch
from float_programs import operators
from fxpress_ir import Edit, Program
from fxpress_passes import Context, FoldAdapters
from fxpress_passes.fold.branches.affine import Affine, NotAffine, Window, aligned
from fxpress_passes.fold.branches.composition import compose, sources_of
from fxpress_passes.fold.branches.constants import Constants
from fxpress_passes.fold.branches.convolutions import dense_kernel, grouped_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from support import built
from torch import fx

_aten = torch.ops.aten
ROUNDING = 1e-12
"""Relative, of float64 through a handful of products of at most 32 terms."""
ROWS = (3, 4)


@dataclass
class Branch:
    """A value [batch, 4, *features] under construction, and random constants."""

    edit: Edit
    node: fx.Node
    features: list[int]
    generator: torch.Generator

    def call(self, target: Any, *args: Any, features: list[int] | None = None) -> None:
        self.node = self.edit.call(target, *args)
        self.features = self.features if features is None else features

    def constant(self, *shape: int) -> fx.Node:
        return self.edit.add_tensor("constant", torch.randn(shape, generator=self.generator, dtype=torch.float64))

    def length(self) -> int:
        return len(self.features) + 2


def _last(branch: Branch, size: int) -> list[int]:
    """The features with `size` along the last dimension."""
    return [*branch.features[:-1], size]


def _project(branch: Branch, size: int) -> None:
    branch.call(
        _aten.linear.default,
        branch.node,
        branch.constant(size, branch.features[-1]),
        branch.constant(size),
        features=_last(branch, size),
    )


def _multiply(branch: Branch, size: int) -> None:
    branch.call(_aten.matmul.default, branch.node, branch.constant(branch.features[-1], size), features=_last(branch, size))


def _scale(branch: Branch, size: int) -> None:
    branch.call(_aten.mul.Tensor, branch.node, branch.constant(*branch.features[-1:]) if size % 2 else 0.5 + size)


def _divide(branch: Branch, size: int) -> None:
    branch.call(_aten.div.Tensor, branch.node, 1.5 + size)


def _shift(branch: Branch, size: int) -> None:
    branch.call(_aten.sub.Tensor if size % 2 else _aten.add.Tensor, branch.node, branch.constant(*branch.features))


def _twice(branch: Branch, size: int) -> None:
    factor = branch.constant(*branch.features)
    branch.call(_aten.add.Tensor, branch.node, branch.edit.call(_aten.mul.Tensor, branch.node, factor))


def _split(branch: Branch, size: int) -> None:
    last = branch.features[-1]
    part = next(part for part in (2, 3, 1) if last % part == 0)
    shape = [*branch.features[:-1], part, last // part]
    branch.call(_aten.reshape.default, branch.node, [-1, ROWS[1], *shape], features=shape)


def _merge(branch: Branch, size: int) -> None:
    count = prod(branch.features)
    branch.call(_aten.flatten.using_ints, branch.node, 2, -1, features=[count])


def _flat_rows(branch: Branch, size: int) -> None:
    """Rows joined and taken apart again, as products of matrices want them."""
    shape = branch.features
    branch.call(_aten.view.default, branch.node, [-1, *shape])
    branch.call(_aten.neg.default, branch.node)
    branch.call(_aten.view.default, branch.node, [-1, ROWS[1], *shape])


def _swap(branch: Branch, size: int) -> None:
    if len(branch.features) > 1:
        branch.call(_aten.transpose.int, branch.node, -1, -2, features=[*branch.features[:-2], *branch.features[:-3:-1]])


def _past_the_rows(branch: Branch, size: int) -> None:
    """Features in front of a dimension of rows, and back."""
    branch.call(_aten.transpose.int, branch.node, 1, 2)
    branch.call(_aten.mul.Tensor, branch.node, 1.0 + size)
    branch.call(_aten.transpose.int, branch.node, 1, 2)


def _slice(branch: Branch, size: int) -> None:
    if branch.features[-1] > 2:
        branch.call(_aten.slice.Tensor, branch.node, -1, 1, branch.features[-1] - 1, features=_last(branch, branch.features[-1] - 2))


def _add_up(branch: Branch, size: int) -> None:
    if len(branch.features) > 1:
        branch.call(_aten.sum.dim_IntList, branch.node, [2], features=branch.features[1:])


def _repeat(branch: Branch, size: int) -> None:
    branch.call(_aten.cat.default, [branch.node, branch.node], -1, features=_last(branch, 2 * branch.features[-1]))


def _drop(branch: Branch, size: int) -> None:
    branch.call(_aten.dropout.default, branch.node, 0.5, False)


STEPS: list[Callable[[Branch, int], None]] = [
    *(_project, _multiply, _scale, _divide, _shift, _twice, _split, _merge, _flat_rows, _swap),
    *(_past_the_rows, _slice, _add_up, _repeat, _drop),
]
_steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 5)), min_size=1, max_size=6).filter(
    lambda steps: sum(step is _repeat for step, _ in steps) < 3
)


def _grown(edit: Edit, x: fx.Node, inputs: int, steps: list[tuple[Callable[[Branch, int], None], int]]) -> Branch:
    branch = Branch(edit, x, [inputs], torch.Generator().manual_seed(0))
    for step, size in steps:
        step(branch, size)
    _merge(branch, 0)
    return branch


@settings(max_examples=12, deadline=None)
@given(_steps, st.sampled_from([4, 6]))
def test_a_composition_is_what_the_graph_computes(steps: Any, inputs: int) -> None:
    program = built((2, ROWS[1], inputs), lambda edit, x: _grown(edit, x, inputs, steps).node, stage="float", dtype=torch.float64)
    edit = program.edit()
    (source,), (end,) = (tuple(map(edit.here, nodes)) for nodes in (program.placeholders(), program.outputs()))
    constants = Constants(edit)
    value = compose(end, {source: Affine.identity(source.meta["val"].shape, (2,))}, constants).dense()
    x = torch.randn(ROWS[0], ROWS[1], inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = program.run(x)[0]
    found = x @ value.linear.reshape(inputs, -1) + value.shift.reshape(-1)
    assert float((found - expected).abs().max()) <= ROUNDING * max(1.0, float(expected.abs().max()), float(value.linear.abs().max()))


@settings(max_examples=8, deadline=None)
@given(_steps, st.sampled_from([4, 6]), st.sampled_from(["beside", "behind", "in front"]))
def test_a_random_branch_folds(steps: Any, inputs: int, where: str) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        branch = Branch(edit, x, [inputs], torch.Generator().manual_seed(3))
        constants = [(branch.constant(5, inputs), branch.constant(5)) for _ in range(2)]
        if where == "in front":
            inner = _grown(edit, x, inputs, steps)
            _project(inner, inputs)
            return edit.call(_aten.linear.default, edit.call(_aten.add.Tensor, x, inner.node), *constants[0])
        layer = edit.call(_aten.linear.default, x, *constants[0])
        inner = _grown(edit, x if where == "beside" else layer, inputs if where == "beside" else 5, steps)
        _project(inner, 5)
        return edit.call(_aten.add.Tensor, layer, inner.node)

    program, context = built((2, ROWS[1], inputs), body, stage="float", dtype=torch.float64), Context()
    folded = FoldAdapters().apply(program, context)
    assert operators(folded) == ["aten.linear"]
    assert context.refusals == []
    x = torch.randn(ROWS[0], ROWS[1], inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected,), (found,) = program.run(x), folded.run(x)
    scale = max(float(expected.abs().max()), *(float(tensor.abs().max()) for tensor in folded.tensors.values()))
    assert float((found - expected).abs().max()) <= ROUNDING * scale


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_convolutions_of_nested_windows_become_one(first: int, second: int, stride: int, groups: int, dilation: int, narrow: bool) -> None:
    """k x k beside 1 x 1 -> j x j or j x j -> 1 x 1, both padded to the same pixels."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        branch = Branch(edit, x, [4], torch.Generator().manual_seed(0))

        def conv(value: fx.Node, outputs: int, inputs: int, size: int, step: int, parts: int, *, bias: bool) -> fx.Node:
            weight = branch.constant(outputs, inputs // parts, size, size)
            spread = dilation if size > 1 else 1
            padding = [spread * (size // 2)] * 2
            return edit.call(
                _aten.conv2d.default, value, weight, branch.constant(outputs) if bias else None, [step] * 2, padding, [spread] * 2, parts
            )

        layer = conv(x, 6, 4, first, stride, groups, bias=True)
        sizes = (1, second) if narrow else (second, 1)
        steps = (1, stride) if narrow else (stride, 1)
        inner = conv(x, 2, 4, sizes[0], steps[0], groups, bias=not narrow)
        inner = conv(inner, 6, 2, sizes[1], steps[1], groups, bias=True)
        return edit.call(_aten.sub.Tensor, layer, edit.call(_aten.mul.Tensor, inner, branch.constant(6, 1, 1)))

    program, context = built((2, 4, 9, 8), body, stage="float", dtype=torch.float64), Context()
    folded = FoldAdapters().apply(program, context)
    if first < second:  # no layer has the window of the whole
        assert any("reads a window that does not lie in the other's" in str(refused) for refused in context.refusals)
    else:
        assert operators(folded) == ["aten.conv2d"]
    x = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected,), (found,) = program.run(x), folded.run(x)
    assert float((found - expected).abs().max()) <= ROUNDING * float(expected.abs().max())


@given(st.sampled_from([1, 2, 3]), st.integers(1, 3), st.integers(1, 3))
def test_a_grouped_kernel_is_a_dense_one_with_zeros(groups: int, outputs: int, inputs: int) -> None:
    weight = torch.randn(groups * outputs, inputs, 3, generator=torch.Generator().manual_seed(0))
    dense = dense_kernel(weight, groups)
    x = torch.randn(2, groups * inputs, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.conv1d(x, dense), torch.conv1d(x, weight, groups=groups), rtol=1e-5, atol=1e-6
    )  # another order of sums
    assert torch.equal(grouped_kernel(dense, groups), weight)


def test_windows_that_do_not_lie_in_each_other_are_told() -> None:
    value = Affine.identity((2, 4, 8), (1,)).dense()
    matrix = torch.ones(12, 4, dtype=torch.float64)
    one, other = (value.placed(matrix, torch.zeros(4), Window((3,), (1,), (padding,), (1,))) for padding in (0, 1))
    with pytest.raises(NotAffine, match="does not lie in the other's"):
        aligned(one, other)


def _refused(body: Callable[[Edit, fx.Node], fx.Node]) -> str:
    program: Program = built((2, 4, 6), body, stage="float", dtype=torch.float64)
    edit = program.edit()
    source, end = edit.here(program.placeholders()[0]), edit.here(program.outputs()[0])
    with pytest.raises(NotAffine) as raised:
        compose(end, {source: Affine.identity(source.meta["val"].shape, (2,))}, Constants(edit))
    return str(raised.value)


def _tensor(edit: Edit, *shape: int) -> fx.Node:
    return edit.add_tensor("constant", torch.ones(shape, dtype=torch.float64))


NOT_LINEAR: dict[str, tuple[Callable[[Edit, fx.Node], fx.Node], str]] = {
    "function": (lambda edit, x: edit.call(_aten.relu.default, x), "its operator is not linear"),
    "square": (lambda edit, x: edit.call(_aten.mul.Tensor, x, x), "it multiplies values that both depend on the input"),
    "quotient": (lambda edit, x: edit.call(_aten.div.Tensor, _tensor(edit, 6), x), "it divides by a value that depends on the input"),
    "training": (lambda edit, x: edit.call(_aten.dropout.default, x, 0.5, True), "it drops values at random"),
    "half precision": (lambda edit, x: edit.call(_aten.to.dtype, x, torch.float16), "it computes in torch.float16"),
    "positions": (lambda edit, x: edit.call(_aten.add.Tensor, x, _tensor(edit, 4, 6)), "a constant in it differs from row to row"),
    "gain by position": (lambda edit, x: edit.call(_aten.mul.Tensor, x, _tensor(edit, 4, 1)), "a constant in it differs from row to row"),
    "average over rows": (lambda edit, x: edit.call(_aten.mean.dim, x, [1]), "it adds rows up"),
    "first row": (lambda edit, x: edit.call(_aten.select.int, x, 1, 0), "it takes some of the rows"),
    "product along rows": (lambda edit, x: edit.call(_aten.matmul.default, _tensor(edit, 3, 4), x), "it mixes rows"),
    "rows in features": (lambda edit, x: edit.call(_aten.flatten.using_ints, x, 1, 2), "a view of it does not keep rows apart"),
    "rows in another order": (
        lambda edit, x: edit.call(_aten.reshape.default, edit.call(_aten.transpose.int, x, 1, 2), [-1, 4, 6]),
        "a view of it does not keep rows apart",
    ),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_is_not_linear_row_by_row_is_told(name: str) -> None:
    body, expected = NOT_LINEAR[name]
    assert expected in _refused(body)


def test_a_constant_is_what_no_input_and_no_chance_changes() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        value = edit.call(_aten.mul.Tensor, _tensor(edit, 6), 2.0)
        noise = edit.call(_aten.bernoulli.p, value, 0.5)
        return edit.call(_aten.add.Tensor, edit.call(_aten.add.Tensor, x, value), noise)

    edit = built((2, 4, 6), body, stage="float", dtype=torch.float64).edit()
    constants = Constants(edit)
    found = {str(node.target): constants.has(node) for node in edit.graph.nodes if node.op == "call_function"}
    assert found["aten.mul.Tensor"]
    assert not found["aten.bernoulli.p"]
    (product,) = edit.graph.find_nodes(op="call_function", target=_aten.mul.Tensor)
    assert torch.equal(constants.value(product), torch.full((6,), 2.0, dtype=torch.float64))


def test_a_source_is_whatever_all_of_a_value_comes_from() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        hidden = edit.call(_aten.relu.default, x)
        scaled = edit.call(_aten.mul.Tensor, hidden, 2.0)
        return edit.call(_aten.add.Tensor, scaled, edit.call(_aten.neg.default, hidden))

    program = built((2, 4, 6), body, stage="float")
    edit = program.edit()
    found = [node.name for node in sources_of(edit.here(program.outputs()[0]), Constants(edit))]
    assert found == ["relu_default"]


def test_identity_needs_features_of_a_fixed_size() -> None:
    program = built((2, 4, 6), lambda edit, x: edit.call(_aten.neg.default, x), stage="float")
    shape = program.placeholders()[0].meta["val"].shape
    with pytest.raises(NotAffine, match="no fixed size"):
        Affine.identity(shape, (0,))
    assert torch.equal(Affine.identity(shape, (2,)).dense().linear.reshape(6, 6), torch.eye(6, dtype=torch.float64))
