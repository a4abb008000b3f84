"""Fake values hold at every size: nothing that the example's sizes decided is remembered or believed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_ir import Edit, Program, capture
from fxpress_ir.analysis.sizes import symbols
from fxpress_ir.errors import ProgramError
from fxpress_ir.propagate import fake_mode, propagated
from support import aten, built
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves

Body = Callable[[Edit, fx.Node], fx.Node]


def flattened(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.view.default, x, [-1, 2])


def by_size(edit: Edit, x: fx.Node) -> fx.Node:
    size = edit.call(aten.sym_size.int, x, 0)
    return edit.call(aten.view.default, x, [size, 2, 3])


def summed(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.sum.dim_IntList, x, [0])


def halved(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.slice.Tensor, x, 1, 0, 3)


@pytest.mark.parametrize(
    ("body", "shape"), [(flattened, ("3*batch", 2)), (by_size, ("batch", 2, 3)), (summed, (6,)), (halved, ("batch", 3))]
)
def test_results_follow_their_symbols(body: Body, shape: tuple[int | str, ...]) -> None:
    program = built((1, 6), body, stage="float")
    assert program.shape_of(program.outputs()[0]) == shape
    for batch in (1, 2, 5):
        sizes = [size if isinstance(size, int) else batch * (3 if "3*" in size else 1) for size in shape]
        assert [*program.run(torch.zeros(batch, 6))[0].shape] == sizes


def viewed(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.view.default, x, [2, 6])


def table_added(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.add.Tensor, x, edit.add_tensor("table", torch.zeros(2, 6)))


def expanded(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.expand.default, x, [2, 6])


@pytest.mark.parametrize("body", [viewed, table_added, expanded])
def test_a_result_that_holds_at_the_example_s_batch_only_is_refused(body: Body) -> None:
    with pytest.raises(ProgramError, match=r"at other sizes: shapes do not propagate|holds only at the example's sizes"):
        built((1, 6), body, stage="float")
    assert built((1, 6), flattened, stage="float").inputs[0].shape[1] == 6


class Attention(nn.Module):
    """Views by sizes, slices whose strides are symbolic, masks and products."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        scores = (q @ k.transpose(-1, -2) * tokens**-0.5).masked_fill(~mask, -1e9).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))[:, 0] + x.mean(1)


def test_every_node_of_a_capture_propagates_to_what_export_recorded() -> None:
    program = capture(Attention(), (torch.zeros(1, 1, 8),), dynamic_shapes={"x": {0: Dim("batch"), 1: Dim("tokens", max=64)}})
    before, mode = str(program), fake_mode(program.graph)
    for node in program.graph.nodes:
        if node.op == "call_function":
            found, recorded = (symbols(tree_leaves(value)) for value in (propagated(node, mode), node.meta["val"]))
            assert found == recorded
            assert str(propagated(node, mode)) == str(node.meta["val"])
    assert str(program) == before


class Halves(nn.Module):
    """Takes an even number of rows only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0) // 2, 2, 4).sum(1)


def test_sizes_with_a_common_factor_keep_it() -> None:
    half = Dim("half", max=50)
    program = capture(Halves(), (torch.zeros(6, 4),), dynamic_shapes={"x": {0: 2 * half}})
    edit = program.edit()
    x = edit.here(program.placeholders()[0])
    with edit.graph.inserting_after(x):
        edit.replace(x, edit.call(aten.neg.default, x))
    after = edit.finish()
    assert after.run(-torch.ones(8, 4))[0].tolist() == [[2.0] * 4] * 4


def test_a_program_without_inputs_is_edited_in_its_own_mode() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(2, 3))

        def forward(self) -> Tensor:
            return self.table * 2

    program: Program = capture(Table())
    edit = program.edit()
    product = edit.here(program.outputs()[0])
    with edit.graph.inserting_before(edit.graph.output_node()):
        edit.replace(product, edit.call(aten.add.Tensor, product, edit.add_tensor("more", torch.ones(3))))
    assert edit.finish().run()[0].tolist() == [[3.0] * 3] * 2
