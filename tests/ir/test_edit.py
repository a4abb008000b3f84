"""An edit makes the next program: it shares what did not change, propagates what did, and refuses what is malformed."""

from __future__ import annotations

from collections.abc import Callable

import fxpress_ir.edit
import pytest
import torch
from fxpress_ir import Edit, Program, capture
from fxpress_ir.errors import ProgramError
from support import aten, built
from torch import Tensor, fx, nn
from torch.export import Dim


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.fixture
def tower() -> Program:
    return capture(Tower(), (torch.zeros(1, 3),), dynamic_shapes={"x": {0: Dim("batch")}})


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the nodes whose shapes are propagated."""
    seen: list[str] = []
    original = fxpress_ir.edit.propagated

    def counting(node: fx.Node, mode: object) -> object:
        seen.append(node.name)
        return original(node, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(fxpress_ir.edit, "propagated", counting)
    return seen


def linears(edit: Edit) -> list[fx.Node]:
    return edit.graph.find_nodes(op="call_function", target=aten.linear.default)


def test_an_edit_without_a_change_is_the_same_program(tower: Program, evaluated: list[str]) -> None:
    after = tower.edit().finish()
    assert (str(after), after.hash, after.inputs, after.stage) == (str(tower), tower.hash, tower.inputs, tower.stage)
    assert all(after.tensors[name] is tensor for name, tensor in tower.tensors.items())
    assert evaluated == []


def test_the_program_before_stays_as_it_was(tower: Program) -> None:
    before, x = str(tower), torch.ones(3, 3)
    expected = tower.run(x)[0]
    edit = tower.edit()
    edit.replace(linears(edit)[2], linears(edit)[2].args[0])
    edit.tensors["first.weight"] = torch.zeros(4, 3)
    after = edit.finish()
    assert str(tower) == before
    assert torch.equal(tower.run(x)[0], expected)
    assert after.shape_of(after.outputs()[0]) == ("batch", 5)


def test_unchanged_tensors_are_shared_and_unused_ones_dropped(tower: Program) -> None:
    edit = tower.edit()
    last = linears(edit)[2]
    edit.replace(last, last.args[0])
    after = edit.finish()
    assert set(after.tensors) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert all(after.tensors[name] is tower.tensors[name] for name in after.tensors)
    assert len(after.graph.find_nodes(op="get_attr")) == 4


def test_new_values_of_the_same_shape_evaluate_nothing(tower: Program, evaluated: list[str]) -> None:
    edit = tower.edit()
    edit.tensors["second.weight"] = torch.zeros(5, 4)
    after = edit.finish()
    assert evaluated == []
    assert after.hash != tower.hash
    assert torch.equal(after.run(torch.ones(3, 3))[0], tower.run(torch.ones(3, 3))[0]) is False


def test_shapes_are_propagated_from_the_changed_nodes_as_far_as_they_change(tower: Program, evaluated: list[str]) -> None:
    edit = tower.edit()
    edit.tensors["first.weight"], edit.tensors["first.bias"] = torch.ones(2, 3), torch.ones(2)
    edit.tensors["second.weight"] = torch.ones(5, 2)
    after = edit.finish()
    assert evaluated == ["linear", "relu", "linear_1"]  # its result has the shape of before, so nothing follows
    assert after.shape_of(after.graph.find_nodes(op="call_function", target=aten.relu.default)[0]) == ("batch", 2)
    assert after.run(torch.ones(3, 3))[0].shape == (3, 6)


def test_a_new_node_is_evaluated_and_what_reads_it_only_where_its_kind_changed(tower: Program, evaluated: list[str]) -> None:
    edit = tower.edit()
    relu = edit.graph.find_nodes(op="call_function", target=aten.relu.default)[1]
    with edit.graph.inserting_after(relu):
        edit.replace(relu, edit.call(aten.neg.default, relu, name="negative"))
    after = edit.finish()
    assert evaluated == ["negative"]
    assert str(after.graph.find_nodes(op="call_function", target=aten.neg.default)[0]) == "negative"


def test_a_new_dtype_goes_on(tower: Program, evaluated: list[str]) -> None:
    edit = tower.edit()
    for name in ("third.weight", "third.bias"):
        edit.tensors[name] = tower.tensors[name].detach().double()
    relu = linears(edit)[2].args[0]
    with edit.graph.inserting_before(linears(edit)[2]):
        linears(edit)[2].replace_input_with(relu, edit.call(aten.to.dtype, relu, torch.float64))
    assert edit.finish().outputs()[0].meta["val"].dtype == torch.float64
    assert len(evaluated) == 2


def test_dimensions_stay_symbolic(tower: Program) -> None:
    edit = tower.edit()
    last = linears(edit)[2]
    with edit.graph.inserting_after(last):
        edit.replace(last, edit.call(aten.reshape.default, last, [-1, 2, 3]))
    after = edit.finish()
    assert after.shape_of(after.outputs()[0]) == ("batch", 2, 3)
    assert [after.run(torch.ones(batch, 3))[0].shape[0] for batch in (1, 3)] == [1, 3]


def test_two_dimensions_of_one_example_size_stay_two() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2).relu()

    program = capture(Doubled(), (torch.zeros(1, 1, 4),), dynamic_shapes={"x": {0: Dim("batch"), 1: Dim("tokens")}})
    edit = program.edit()
    double = edit.graph.find_nodes(op="call_function", target=aten.mul.Tensor)[0]
    with edit.graph.inserting_after(double):
        edit.replace(double, edit.call(aten.transpose.int, double, 0, 1))
    assert edit.finish().shape_of(edit.graph.output_node().args[0][0]) == ("tokens", "batch", 4)
    assert program.shape_of(program.outputs()[0]) == ("batch", "tokens", 4)


def test_dead_code_goes_and_inputs_stay(tower: Program) -> None:
    edit = tower.edit()
    x, last = edit.here(tower.placeholders()[0]), linears(edit)[2]
    with edit.graph.inserting_after(x):
        edit.call(aten.neg.default, x, name="dead")
        constant = edit.add_tensor("constant", torch.ones(2))
    edit.replace(last, constant)
    after = edit.finish()
    assert str(after) == "\n".join(["float program(x: float32[batch, 3])", "  %constant : f32[2]", "  return %constant"])
    assert after.run(torch.ones(3, 3))[0].tolist() == [1.0, 1.0]


def test_an_input_that_is_replaced_everywhere_stays_an_input(tower: Program) -> None:
    edit = tower.edit()
    x = edit.here(tower.placeholders()[0])
    with edit.graph.inserting_after(x):
        edit.replace(x, edit.add_tensor("constant", torch.ones(2, 3)))
    assert len(edit.finish().placeholders()) == 1


def test_an_input_takes_steps_and_what_reads_it_is_evaluated_anew(evaluated: list[str]) -> None:
    program = capture(torch.nn.Flatten(), (torch.zeros(1, 3, 2),), dynamic_shapes=({0: Dim("batch")},))
    edit = program.edit()
    edit.take_steps(edit.here(program.placeholders()[0]), torch.int8, 0.1)
    edit.output_scales = (0.1,)
    result = edit.finish()
    assert (str(result.inputs[0]), str(program.inputs[0])) == (
        "input_1: int8[batch, 3, 2] in steps of 0.1",
        "input_1: float32[batch, 3, 2]",
    )
    assert evaluated == ["flatten"]
    assert result.outputs()[0].meta["val"].dtype == torch.int8
    assert result.shape_of(result.outputs()[0]) == ("batch", 6)
    assert str(result).endswith("return flatten in steps of 0.1")
    kept = result.edit().finish().noted("nothing")
    assert (kept.inputs, kept.output_scales, kept.hash) == (result.inputs, (0.1,), result.hash)
    again = result.edit()
    again.output_scales = (0.2,)
    assert again.finish().hash != result.hash


def test_names_of_new_tensors_are_unique_and_nodes_inherit_provenance(tower: Program) -> None:
    edit = tower.edit()
    first = linears(edit)[0]
    with edit.graph.inserting_after(first):
        names = [str(edit.add_tensor("first.weight", torch.ones(4)).target) for _ in range(2)]
        copy = edit.call(aten.neg.default, first, like=first)
    assert names == ["first.weight_1", "first.weight_2"]
    assert copy.meta["provenance"] == first.meta["provenance"]
    assert copy.meta["module"] == "first"
    assert edit.tensor(first.args[1]) is tower.tensors["first.weight"]


def out_of_order(edit: Edit) -> None:
    linears(edit)[0].replace_input_with(linears(edit)[0].args[0], linears(edit)[2])


def foreign(edit: Edit) -> None:
    linears(edit)[0].replace_input_with(linears(edit)[0].args[0], fx.Graph().placeholder("x"))


def missing_tensor(edit: Edit) -> None:
    del edit.tensors["first.bias"]


def not_a_tuple(edit: Edit) -> None:
    edit.graph.output_node().args = (linears(edit)[2],)


def lost_input(edit: Edit) -> None:
    x = edit.graph.find_nodes(op="placeholder")[0]
    with edit.graph.inserting_after(x):
        x.replace_all_uses_with(edit.add_tensor("constant", torch.ones(2, 3)))
    edit.graph.erase_node(x)


def too_few_scales(edit: Edit) -> None:
    edit.output_scales = (0.1, None)


def wrong_shape(edit: Edit) -> None:
    edit.tensors["second.weight"] = torch.ones(5, 9)


def wrong_arguments(edit: Edit) -> None:
    linears(edit)[1].args = (linears(edit)[1].args[0],)


def frozen(edit: Edit) -> None:
    last = linears(edit)[2]
    with edit.graph.inserting_after(last):
        edit.replace(last, edit.call(aten.view.default, last, [2, 6]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (out_of_order, "the edited graph is malformed: .* before it has been defined"),
        (foreign, "the edited graph is malformed: .* does not belong to this Graph"),
        (missing_tensor, "first_bias: there is no tensor 'first.bias'"),
        (not_a_tuple, "does not return a tuple"),
        (too_few_scales, "returns 1 values for 2 output scales"),
        (lost_input, "does not take x"),
        (wrong_shape, r"linear_1 = aten\.linear\.default: shapes do not propagate"),
        (wrong_arguments, r"linear_1 = aten\.linear\.default: shapes do not propagate"),
        (frozen, r"aten\.view\.default at other sizes: shapes do not propagate"),
    ],
)
def test_a_malformed_edit_is_refused_and_leaves_the_program_whole(tower: Program, change: Callable[[Edit], None], reason: str) -> None:
    before, edit = str(tower), tower.edit()
    change(edit)
    with pytest.raises(ProgramError, match=reason) as caught:
        edit.finish()
    assert "\n" not in str(caught.value)
    assert str(tower) == before
    assert tower.run(torch.ones(3, 3))[0].shape == (3, 6)


def test_a_tensor_changed_during_the_edit_is_noticed(tower: Program) -> None:
    edit = tower.edit()
    with torch.no_grad():
        edit.tensors["first.bias"].add_(1)
    with pytest.raises(ProgramError, match=r"first\.bias: tensor was changed in place"):
        edit.finish()


def test_a_tensor_named_below_another_gets_a_name_that_a_module_can_hold() -> None:
    """``row.twice`` beside ``row``."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        row, twice = edit.add_tensor("row", torch.ones(3)), edit.add_tensor("row.twice", torch.full((3,), 2.0))
        return edit.call(aten.add.Tensor, edit.call(aten.mul.Tensor, x, row), twice)

    program = built((1, 3), body, stage="float")
    assert sorted(program.tensors) == ["row", "row_twice"]
    assert torch.equal(program.run(torch.ones(2, 3))[0], torch.full((2, 3), 3.0))
