"""The guarded loader: what torch.export.save wrote comes back the same; what somebody planted is not run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from fxpress_ir.errors import CaptureError
from fxpress_ir.pt2 import load_pt2
from fxpress_ir.pt2.expression import expression
from fxpress_ir.pt2.operators import is_operator
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

MODEL, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
Members = dict[str, bytes]


class Net(nn.Module):
    """A convolution, a batch norm, sizes computed from a dynamic one, a graph within the graph, a lifted constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4).eval()
        self.register_buffer("empty", torch.zeros(0))

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Any]:
        y = torch.relu_(self.norm(self.conv(x))) * scale
        batch, channels, height, width = y.shape
        with torch.no_grad():
            y = y + torch.tensor(3.0)
        return {"flat": y.view(batch, channels, height * width), "rest": (y.mean(), self.empty)}


def example(batch: int = 2, height: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, height, 8, generator=generator), torch.rand(1, generator=generator)


@pytest.fixture(scope="module")
def exported() -> ExportedProgram:
    x, scale = example()
    shapes = {"x": {0: Dim("batch"), 2: Dim("height", min=4, max=64)}, "scale": None}
    return torch.export.export(Net().eval(), (x,), {"scale": scale}, dynamic_shapes=shapes)


@pytest.fixture
def saved(exported: ExportedProgram, tmp_path: Path) -> Path:
    torch.export.save(exported, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def rewritten(path: Path, change: Callable[[Members], object], root: str = "net") -> Path:
    """The archive with its members changed."""
    with zipfile.ZipFile(path) as file:
        members = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{root}/{name}", content)
    return path


def in_json(name: str, change: Callable[[Any], object]) -> Callable[[Members], object]:
    def edit(members: Members) -> None:
        data = json.loads(members[name])
        change(data)
        members[name] = json.dumps(data).encode()

    return edit


def leaves(value: Any) -> list[Tensor]:
    found: list[Tensor] = torch.utils._pytree.tree_leaves(value)
    return found


@pytest.mark.parametrize(("batch", "height"), [(2, 9), (1, 4), (5, 30)])
def test_what_was_saved_comes_back_the_same(saved: Path, exported: ExportedProgram, batch: int, height: int) -> None:
    x, scale = example(batch, height)
    found, expected = (program.module(check_guards=False)(x, scale=scale) for program in (load_pt2(saved), exported))
    assert found.keys() == expected.keys()
    assert isinstance(found["rest"], tuple | list)
    assert all(map(torch.equal, leaves(found), leaves(expected)))


def test_the_signature_and_the_dynamic_dimensions_come_back(saved: Path, exported: ExportedProgram) -> None:
    found = load_pt2(saved)
    assert found.graph_signature.user_inputs == exported.graph_signature.user_inputs
    assert found.state_dict.keys() == exported.state_dict.keys()
    assert "VR[4, 64]" in map(str, found.range_constraints.values())
    assert any("test_pt2.py" in node.meta.get("stack_trace", "") for node in found.graph.nodes)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(x))
            return result

    x = torch.ones(2, 4)
    program = torch.export.export(Tied(), (x,))
    torch.export.save(program, tmp_path / "tied.pt2")
    found = load_pt2(tmp_path / "tied.pt2")
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.state_dict.values()}) == 1
    assert torch.equal(found.module()(x), program.module()(x))


def test_a_container_that_a_text_could_import_comes_back_as_a_tuple(saved: Path) -> None:
    planted = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": ["flat", "rest"]}

    def change(data: Any) -> None:
        signature = data["graph_module"]["module_call_graph"][0]["signature"]
        version, tree = json.loads(signature["out_spec"])
        signature["out_spec"] = json.dumps([version, {**tree, "type": "collections.defaultdict", "context": planted}])

    x, scale = example()
    found = load_pt2(rewritten(saved, in_json(MODEL, change))).module(check_guards=False)(x, scale=scale)
    assert isinstance(found, tuple)
    assert len(leaves(found)) == 3


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Touch(mark),), buffer)
    return buffer.getvalue()


def shell(mark: Path) -> str:
    return f"__import__('pathlib').Path({str(mark)!r}).touch()"


def test_a_planted_sample_input_is_not_unpickled_where_torch_alone_would(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    rewritten(saved, lambda members: members.update({SAMPLE: pickled(mark)}))
    x, scale = example()
    assert load_pt2(saved).module(check_guards=False)(x, scale=scale)["flat"].shape == (2, 4, 42)
    assert not mark.exists()
    torch.export.load(saved)
    assert mark.exists()


def test_planted_guards_are_left_behind(saved: Path, tmp_path: Path) -> None:
    code = shell(tmp_path / "mark")
    found = load_pt2(rewritten(saved, in_json(MODEL, lambda data: data.update(guards_code=[code]))))
    found.module()
    assert found._guards_code == []
    assert not (tmp_path / "mark").exists()


def payload(config: Any) -> Any:
    return next(iter(config["config"].values()))


def first_node(data: Any) -> Any:
    return next(node for node in data["graph_module"]["graph"]["nodes"] if "conv2d" in node["target"])


def first_expression(data: Any) -> Any:
    sizes = (size for meta in data["graph_module"]["graph"]["tensor_values"].values() for size in meta["sizes"])
    return next(size["as_expr"] for size in sizes if "as_expr" in size)


def renamed(data: Any, old: str, new: str) -> None:
    text = json.dumps(data["graph_module"]).replace(json.dumps(old), json.dumps(new))
    data["graph_module"] = json.loads(text)


def signature(data: Any) -> Any:
    return data["graph_module"]["module_call_graph"][0]["signature"]


def graph(data: Any) -> Any:
    return data["graph_module"]["graph"]


PLANTED: dict[str, tuple[Callable[[Path], Callable[[Members], object]], str]] = {
    "pickled weight": (
        lambda mark: (
            lambda m: (
                m.update({"data/weights/weight_0": pickled(mark)}),
                in_json(WEIGHTS, lambda c: payload(c).update(use_pickle=True))(m),
            )
        ),
        "pickle",
    ),
    "pickled constant": (
        lambda mark: (
            lambda m: (
                m.update({"data/constants/tensor_0": pickled(mark)}),
                in_json(CONSTANTS, lambda c: payload(c).update(use_pickle=True))(m),
            )
        ),
        "pickle",
    ),
    "opaque constant": (
        lambda mark: (
            lambda m: (
                m.update({"data/constants/opaque_obj_0": pickle.dumps(Touch(mark))}),
                in_json(CONSTANTS, lambda c: payload(c).update(path_name="opaque_obj_0", use_pickle=True))(m),
            )
        ),
        "opaque_obj_0",
    ),
    "opaque constant in a tensor's file": (
        lambda mark: in_json(CONSTANTS, lambda c: payload(c).update(path_name="opaque_obj_0")),
        "opaque_obj_0",
    ),
    "weights of the old format": (lambda mark: lambda m: m.update({"data/weights/model.pt": pickled(mark)}), "data/weights/model.pt"),
    "compiled code": (lambda mark: lambda m: m.update({"data/aotinductor/model/a.so": b"\x7fELF"}), "compiled code"),
    "another model": (lambda mark: lambda m: m.update({"models/other.json": m[MODEL]}), "another model"),
    "expression": (lambda mark: in_json(MODEL, lambda d: first_expression(d).update(expr_str=shell(mark))), "expr_str"),
    "expression in a weight": (
        lambda mark: in_json(WEIGHTS, lambda c: payload(c)["tensor_meta"]["sizes"].append({"as_expr": {"expr_str": shell(mark)}})),
        "expr_str",
    ),
    "target": (lambda mark: in_json(MODEL, lambda d: first_node(d).update(target="os.system")), "os.system"),
    "target in torch": (lambda mark: in_json(MODEL, lambda d: first_node(d).update(target="torch.hub.load")), "torch.hub.load"),
    "attribute as target": (
        lambda mark: in_json(MODEL, lambda d: first_node(d).update(target="torch.ops.aten.__class__")),
        "torch.ops.aten.__class__",
    ),
    "operator as argument": (
        lambda mark: in_json(MODEL, lambda d: first_node(d)["inputs"][0].update(arg={"as_operator": "torch.os.system"})),
        "as_operator",
    ),
    "name": (lambda mark: in_json(MODEL, lambda d: renamed(d, "batch_norm", f"x[{shell(mark)}]")), "is no name"),
    "name of a node": (lambda mark: in_json(MODEL, lambda d: first_node(d).update(name=f"y = {shell(mark)};")), "is no name"),
    "name of an argument": (lambda mark: in_json(MODEL, lambda d: first_node(d)["inputs"][0].update(name="a b")), "is no name"),
    "name of a parameter": (
        lambda mark: in_json(MODEL, lambda d: renamed(d, "conv.weight", f'a"), {shell(mark)}, ("')),
        "is no path",
    ),
    "names of forward's arguments": (
        lambda mark: in_json(MODEL, lambda d: signature(d).update(forward_arg_names=["x", f"scale=[{shell(mark)}]"])),
        "forward_arg_names",
    ),
    "name of a keyword": (
        lambda mark: in_json(
            MODEL, lambda d: signature(d).update(in_spec=signature(d)["in_spec"].replace("scale", "a b"), forward_arg_names=None)
        ),
        "in_spec",
    ),
    "enum in a tree": (
        lambda mark: in_json(
            MODEL,
            lambda d: signature(d).update(out_spec=signature(d)["out_spec"].replace('[\\"flat\\", \\"rest\\"]', '{\\"__enum__\\": true}')),
        ),
        "out_spec",
    ),
    "text for a number": (
        lambda mark: in_json(MODEL, lambda d: d["range_constraints"].update(s77={"min_val": shell(mark), "max_val": None})),
        "RangeConstraint.min_val",
    ),
    "symbol": (
        lambda mark: in_json(MODEL, lambda d: d["range_constraints"].update({shell(mark): {"min_val": 1, "max_val": 2}})),
        "range_constraints",
    ),
    "custom object": (
        lambda mark: in_json(MODEL, lambda d: graph(d)["custom_obj_values"].update(o={"name": "o", "class_fqn": "os.system"})),
        "custom object",
    ),
    "verifier": (lambda mark: in_json(MODEL, lambda d: d.update(verifiers=["os"])), "verifiers"),
    "device": (lambda mark: in_json(WEIGHTS, lambda c: payload(c)["tensor_meta"].update(device={"type": "cuda", "index": 0})), "no CPU"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_what_was_planted_is_named_and_not_run(case: str, saved: Path, tmp_path: Path) -> None:
    plant, word = PLANTED[case]
    refused(rewritten(saved, plant(tmp_path / "mark")), word)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("case", ["pickled weight", "pickled constant", "opaque constant", "expression"])
def test_torch_alone_would_have_run_it(case: str, saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, PLANTED[case][0](tmp_path / "mark"))
    x, scale = example()
    with suppress(Exception):  # by then it is done
        torch.export.load(path).module(check_guards=False)(x, scale=scale)
    assert (tmp_path / "mark").exists()


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CaptureError) as caught:
        load_pt2(path)
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.way_on
    for word in (str(path), *words):
        assert word in line


def compressed(path: Path) -> None:
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr(f"net/{MODEL}", "{}")


def flipped(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("net/data/weights/weight_0")
    content = bytearray(path.read_bytes())
    content[content.index(b"weight_0", info.header_offset) + len(b"weight_0") + 200] ^= 1
    path.write_bytes(content)


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a zip": (lambda path: path.write_text("hello"), "no zip archive"),
    "empty": (lambda path: path.write_bytes(b""), "no zip archive"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "no zip archive"),
    "bytes changed": (flipped, "damaged"),
    "compressed": (compressed, "compressed"),
    "listed twice": (twice, "twice"),
    "no model": (lambda path: rewritten(path, lambda members: members.pop(MODEL)), MODEL),
    "no weights": (lambda path: rewritten(path, lambda members: members.pop(WEIGHTS)), WEIGHTS),
    "no bytes of a weight": (lambda path: rewritten(path, lambda members: members.pop("data/weights/weight_0")), "conv."),
    "weights that were never there": (
        lambda path: rewritten(path, lambda members: members.update({"data/weights/weight_0": b""})),
        "bytes",
    ),
    "too few bytes": (
        lambda path: rewritten(path, lambda members: members.update({"data/weights/weight_0": bytes(8)})),
        "torch cannot load",
    ),
    "no JSON": (lambda path: rewritten(path, lambda members: members.update({MODEL: b"{"})), "no JSON"),
    "deep JSON": (lambda path: rewritten(path, lambda members: members.update({MODEL: b"[" * 100_000})), "no JSON"),
    "JSON of something else": (lambda path: rewritten(path, lambda members: members.update({MODEL: b"[1]"})), "ExportedProgram"),
    "an empty program": (lambda path: rewritten(path, lambda members: members.update({MODEL: b"{}"})), "torch cannot load"),
    "unknown member": (lambda path: rewritten(path, lambda members: members.update({"../../evil": b""})), "evil"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_line_that_names_it(case: str, saved: Path) -> None:
    damage, word = DAMAGED[case]
    damage(saved)
    refused(saved, word)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    refused(tmp_path, "folder")
    refused(tmp_path / "nothing.pt2", "nothing.pt2", "No such file")


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s0', positive=True, integer=True)",
        "Add(Mul(Integer(14), Symbol('s53', integer=True)), Integer(-28))",
        "FloorDiv(Max(Integer(1), Symbol('u3')), Integer(2))",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "And(Equality(Symbol('s0'), Integer(4)), Not(StrictLessThan(Symbol('s1'), Integer(2))))",
        "Float('0.5', precision=53)",
        "true",
    ],
)
def test_expressions_that_torch_writes_pass(text: str) -> None:
    assert expression(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "os",
        "Symbol('s0').__class__",
        "Symbol('__import__')",
        "Symbol(Symbol)",
        "Symbol('s0', cls=print)",
        "Integer('9')",
        "Integer(9) if 1 else 2",
        "eval('1')",
        "Add(*(1, 2))",
        "Add(Integer(1), **{})",
        "[Integer(1)]",
        "lambda: 0",
        "'s0'",
        "Pow(Integer(9), Integer(9))",
        "Pow(Symbol('s0'), Integer(999999999))",
        f"Integer({'9' * 30})",
        "Float('1e9999999')",
        "Add(" * 500 + ")" * 500,
        "Integer(1) # " + "x" * 20_000,
        "",
    ],
)
def test_expressions_that_could_do_harm_do_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"torch\.export|read"):
        expression(text)


@pytest.mark.parametrize(
    "target", ["torch.ops.aten.add.Tensor", "torch.ops.fxp.conv2d.default", "_operator.mul", "math.trunc", "torch.sym_max"]
)
def test_operators_that_compute_may_be_called(target: str) -> None:
    assert is_operator(target)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.add.op",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.add",
        "torch.ops.aten.nothing.default",
        "torch.ops.load_library",
        "torch.ops.higher_order.print",
        "torch.ops.higher_order.call_torchbind",
        "_operator.methodcaller",
        "_operator.add.__call__",
        "torch.load",
        "#triton:kernel",
        "math.trunc\n",
        "",
    ],
)
def test_everything_else_may_not(target: str) -> None:
    assert not is_operator(target)
