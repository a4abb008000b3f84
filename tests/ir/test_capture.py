"""A module becomes a float program: dynamic sizes, names, modes, outputs; what cannot be captured is said in one line."""

from __future__ import annotations

import gc
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fxpress_ir import Dimension, Program, capture
from fxpress_ir.errors import CaptureError
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves

# strict export warns once a process about what it cannot trace
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Garbage(nn.Module):
    """Strict export cannot trace the builtin; non-strict export just calls it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (2 if gc.isenabled() else 3)


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("about to fail")
        print("about to fail", file=sys.stderr)
        raise ValueError("no such\nmodel")


class Named(nn.Module):
    def forward(self, x: Tensor, table: Tensor | None = None, *, mask: Tensor) -> dict[str, Any]:
        y = x * mask
        return {"sum": y.sum(1), "all": [y, {"table": table}]} if table is not None else {"sum": y.sum(1), "all": [y, None]}


class Several(nn.Module):
    def forward(self, *xs: Tensor) -> Tensor:
        return xs[0] + xs[1]


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x + 1, 3


class Size(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x + 1, x.shape[0]


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        x + 1


class Scaled(nn.Module):
    def forward(self, x: Tensor, factor: int) -> Tensor:
        return x * factor


@dataclass
class Pair:
    left: Tensor
    right: Tensor


torch.export.register_dataclass(Pair)


class Paired(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x + 1, x * 2)


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 5))


def batched(model: nn.Module, *args: Tensor, **bounds: int) -> Program:
    return capture(model, args, dynamic_shapes=tuple({0: Dim("batch", **bounds)} for _ in args))


@pytest.mark.parametrize("example", [1, 2, 5])
def test_a_dynamic_batch_stays_symbolic_whatever_the_example(example: int) -> None:
    model = convnet()
    program = batched(model, torch.zeros(example, 3, 4, 4))
    assert program.inputs[0].shape == (Dimension("batch"), 3, 4, 4)
    assert program.shape_of(program.outputs()[0]) == ("batch", 5)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            assert torch.equal(program.run(x)[0], model.eval()(x))


def test_dimensions_have_the_user_s_names_and_bounds() -> None:
    shapes = {"x": {0: Dim("images", max=64), 1: Dim("tokens", min=2, max=512)}, "table": None, "mask": {1: Dim("tokens", min=2, max=512)}}
    program = capture(Named(), (torch.zeros(1, 7), torch.zeros(3)), {"mask": torch.zeros(1, 7)}, dynamic_shapes=shapes)
    assert [str(spec) for spec in program.inputs] == ["x: float32[images, tokens]", "table: float32[3]", "mask: float32[1, tokens]"]
    assert program.inputs[0].shape == (Dimension("images", 1, 64), Dimension("tokens", 2, 512))


def test_keyword_inputs_keep_their_dimensions_in_any_order() -> None:
    class Swapped(nn.Module):
        def forward(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return x + a, b * 2

    shapes = {"x": {0: Dim("n")}, "a": {0: Dim("n")}, "b": {0: Dim("m")}}
    program = capture(Swapped(), (torch.zeros(1, 3),), {"b": torch.zeros(1, 4), "a": torch.zeros(1, 3)}, dynamic_shapes=shapes)
    assert {spec.name: str(spec.shape[0]) for spec in program.inputs} == {"x": "n", "a": "n", "b": "m"}


def test_variadic_inputs_have_one_shape_each() -> None:
    shapes = {"xs": ({0: Dim("batch")}, {0: Dim("batch")})}
    program = capture(Several(), (torch.zeros(1, 3), torch.zeros(1, 3)), dynamic_shapes=shapes)
    assert [str(spec.shape[0]) for spec in program.inputs] == ["batch", "batch"]
    assert program.run(torch.ones(3, 3), torch.ones(3, 3))[0].tolist() == [[2.0] * 3] * 3


def test_variadic_inputs_leave_keyword_inputs_their_shapes() -> None:
    class Rest(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor, mask: Tensor) -> Tensor:
            return x * mask + rest[0]

    shapes = {"x": {0: Dim("batch")}, "rest": (None,), "mask": {0: Dim("batch")}}
    program = capture(Rest(), (torch.zeros(1, 3), torch.zeros(1, 3)), {"mask": torch.zeros(1, 3)}, dynamic_shapes=shapes)
    assert [str(spec.shape[0]) for spec in program.inputs] == ["batch", "1", "batch"]


def test_a_dimension_marked_static_stays_as_the_example_has_it() -> None:
    program = capture(nn.ReLU(), (torch.zeros(1, 1),), dynamic_shapes={"input": {0: Dim.AUTO, 1: Dim.STATIC}})
    assert isinstance(program.inputs[0].shape[0], Dimension)
    assert program.inputs[0].shape[1] == 1


def test_what_strict_export_cannot_trace_goes_through_non_strict() -> None:
    with pytest.raises(Exception, match="skipped"):
        torch.export.export(Garbage(), (torch.zeros(2, 3),), strict=True)
    assert batched(Garbage(), torch.zeros(1, 3)).run(torch.ones(3, 3))[0].tolist() == [[2.0] * 3] * 3


def test_an_exported_program_is_accepted() -> None:
    model = convnet().eval()
    exported = torch.export.export(model, (torch.zeros(2, 3, 4, 4),), dynamic_shapes=({0: Dim("batch", max=8)},))
    program = capture(exported)
    assert isinstance(program.inputs[0].shape[0], Dimension)
    assert program.inputs[0].shape[0].maximum == 8
    x = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(program.run(x)[0], model(x))
    assert program.tensors["0.weight"] is not None


def test_the_modes_of_all_modules_are_restored_and_weights_are_shared() -> None:
    model = convnet().train()
    model[3].eval()
    program = batched(model, torch.zeros(1, 3, 4, 4))
    assert [module.training for module in model] == [True, True, True, False, True, True]
    assert model.training
    assert program.tensors["0.weight"] is model[0].weight
    with pytest.raises(CaptureError):
        batched(nn.Sequential(Branches(), model), torch.zeros(1, 3, 4, 4))
    assert [module.training for module in model] == [True, True, True, False, True, True]


def test_nested_outputs_are_flattened_in_order() -> None:
    x, mask, table = torch.ones(2, 3), torch.full((2, 3), 2.0), torch.zeros(4)
    program = capture(Named(), (x, table), {"mask": mask})
    expected = tree_leaves(Named()(x, table, mask=mask))
    assert all(torch.equal(*pair) for pair in zip(program.run(x, table, mask), expected, strict=True))


def test_outputs_that_are_none_are_left_out() -> None:
    program = capture(Named(), (torch.ones(2, 3),), {"mask": torch.ones(2, 3)})
    assert [tuple(y.shape) for y in program.run(torch.ones(2, 3), torch.ones(2, 3))] == [(2,), (2, 3)]


def test_a_dataclass_is_flattened() -> None:
    left, right = batched(Paired(), torch.zeros(1, 2)).run(torch.ones(3, 2))
    assert (left.unique().tolist(), right.unique().tolist()) == ([2.0], [2.0])


def test_nodes_remember_provenance_module_and_source() -> None:
    program = batched(nn.Sequential(nn.Linear(3, 3), Garbage()), torch.zeros(1, 3))
    linear, product = (node for node in program.graph.nodes if node.op == "call_function")
    assert linear.meta["provenance"] == linear.name
    assert linear.meta["module"] == "0"
    line = inspect.getsourcelines(Garbage.forward)[1] + 1
    assert product.meta["source"] == f"{__file__}:{line}"


def _where(model: type[nn.Module], line: int) -> str:
    return f"{__file__}:{inspect.getsourcelines(model.forward)[1] + line}: "


def test_control_flow_on_data_names_the_line_and_the_way_on(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError) as caught:
        batched(Branches(), torch.zeros(1, 3))
    assert str(caught.value) == f"{_where(Branches, 1)}control flow depends on tensor values; use torch.where instead of `if`"
    assert capfd.readouterr() == ("", "")


def test_a_failing_export_prints_nothing_and_says_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError) as caught:
        batched(Raises(), torch.zeros(1, 3))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(_where(Raises, 3))
    assert "no such" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


def test_a_successful_capture_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    batched(Garbage(), torch.zeros(1, 3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "tensor"), [("0.weight", "weight"), ("1.running_var", "running_var")])
def test_nan_in_a_tensor_is_refused_by_its_name(name: str, tensor: str) -> None:
    model = convnet()
    getattr(model[int(name[0])], tensor).data.view(-1)[0] = torch.nan
    with pytest.raises(CaptureError, match=re.escape(f"weight '{name}': holds NaN")):
        batched(model, torch.zeros(1, 3, 4, 4))


def test_infinities_are_not_nan() -> None:
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[torch.inf, -torch.inf], [1.0, 2.0]])
    assert batched(model, torch.zeros(1, 2)).tensors["weight"] is model.weight


@pytest.mark.parametrize(
    ("model", "args", "shapes", "reason"),
    [
        (Constant(), (torch.zeros(2),), None, "the model returns a Python value"),
        (Size(), (torch.zeros(1, 2),), {"x": {0: Dim("batch")}}, "the model returns a Python value"),
        (Nothing(), (torch.zeros(2),), None, "the model returns a Python value"),
        (Scaled(), (torch.zeros(2), 3), None, "input 'factor': input is a int"),
        (nn.ReLU(), (torch.zeros(2),), {"x": {0: Dim("batch")}}, "dynamic_shapes names 'x'; forward takes input"),
        (nn.ReLU(), (), None, "torch.export failed"),
        (nn.Linear(3, 3), (torch.zeros(1, 3),), {"input": {1: Dim("width")}}, "torch.export failed"),
        (7, (), None, "cannot capture a int; pass an nn.Module, an ExportedProgram or a .pt2 file"),
    ],
)
def test_what_cannot_be_captured_is_said_in_one_line(model: Any, args: tuple[Any, ...], shapes: Any, reason: str) -> None:
    with pytest.raises(CaptureError, match=reason) as caught:
        capture(model, args, dynamic_shapes=shapes)
    assert "\n" not in str(caught.value)


def test_a_pt2_file_is_captured_and_gives_the_model_s_outputs(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
    dynamic = {"input": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(model, (torch.ones(2, 3),), dynamic_shapes=dynamic), tmp_path / "m.pt2")
    x = torch.linspace(-1, 1, 15).reshape(5, 3)
    for path in (tmp_path / "m.pt2", str(tmp_path / "m.pt2")):
        assert torch.equal(capture(path).run(x)[0], model(x).detach())


def test_a_file_that_is_no_pt2_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"no archive")
    with pytest.raises(CaptureError) as caught:
        capture(tmp_path / "m.pt2")
    assert "m.pt2" in str(caught.value)
    assert "\n" not in str(caught.value)
