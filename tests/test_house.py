"""The house rules, read off the syntax tree of every module: imports only go down, files are short, nothing runs data."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fxpress_passes import PASSES, Pass

ROOT = Path(__file__).parents[1]
FLOORS = {
    "fxpress_ir": ("ir", set[str]()),
    "fxpress_passes": ("passes", {"fxpress_ir"}),
    "fxpress_backends": ("backends", {"fxpress_ir"}),
    "fxpress": ("api", {"fxpress_ir", "fxpress_passes", "fxpress_backends"}),
}
"""package ==> its top-level folder, and the floors below it."""
SHARED = {"contract", "pipeline", "evidence", "latency", "allocate", "low_rank"}
"""What every family of passes may import."""
ROOMS = {
    "tvm": ("fxpress_backends.tvm",),
    "onnx": ("fxpress_backends.onnx", "fxpress_backends.bench"),
    "onnx_ir": ("fxpress_backends.onnx",),
    "onnxruntime": ("fxpress_backends.onnx", "fxpress_backends.bench"),
    "onnxscript": ("fxpress_backends.onnx",),
}
"""library ==> the only modules that may import it."""
RUNS_DATA = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MOST_LINES = 300


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its text and its syntax tree."""

    name: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    def imports(self) -> Iterator[str]:
        """Dotted names of all that is imported, wherever it stands; relative imports made absolute."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parts = self.name.split(".")
                above = parts[: len(parts) - node.level + self.is_package] if node.level else []
                base = ".".join([*above, *filter(None, [node.module])])
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node


def _modules() -> Iterator[Module]:
    for package, (folder, _) in FLOORS.items():
        for file in sorted((ROOT / folder / package).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            yield Module(".".join(parts[:-1] if is_package else parts), file.read_text(), is_package)


MODULES = tuple(_modules())
Rule = Callable[[Module], Iterator[str]]


def imports_go_down(module: Module) -> Iterator[str]:
    """A floor imports itself and the floors below it."""
    for name in module.imports():
        floor = name.split(".")[0]
        if floor in FLOORS and floor != module.package and floor not in FLOORS[module.package][1]:
            yield f"imports {name}"


def families_are_strangers(module: Module) -> Iterator[str]:
    """A family of passes imports its own files and what is shared, no other family; a sum of passes imports its parts."""
    place = module.name.split(".")
    if module.package != "fxpress_passes" or len(place) < 3 or module.name in SUMS:
        return
    for name in module.imports():
        parts = name.split(".")
        if parts[0] == "fxpress_passes" and len(parts) > 1 and parts[1] not in SHARED | {place[1]}:
            yield f"imports {name}"


def passes_are_strangers(module: Module) -> Iterator[str]:
    """No pass imports another; what two share has a file of its own."""
    if module.name not in {kind.__module__ for kind in PASSES} - SUMS:
        return
    for name in module.imports():
        for kind in PASSES:
            if kind.__module__ != module.name and name.startswith(f"{kind.__module__}."):
                yield f"imports {name}"


def libraries_stay_in_their_rooms(module: Module) -> Iterator[str]:
    """A backend's library is imported by that backend alone."""
    for name in module.imports():
        rooms = ROOMS.get(name.split(".")[0], (module.name,))
        if not any(module.name == room or module.name.startswith(f"{room}.") for room in rooms):
            yield f"imports {name}"


def the_arbiter_stands_alone(module: Module) -> Iterator[str]:
    """The NumPy reference runs no kernel that it is there to judge; only what checks and saves programs sees them."""
    room, _, file = module.name.rpartition(".")
    if room == "fxpress_backends.reference" and file not in ("legalize", "lower"):
        yield from (f"imports {name}" for name in module.imports() if name.split(".")[0] == "torch" or name.startswith("fxpress_ir.ops"))


def is_short(module: Module) -> Iterator[str]:
    count = len(module.text.splitlines())
    if count > MOST_LINES:
        yield f"has {count} lines, more than {MOST_LINES}"


def says_its_idea_first(module: Module) -> Iterator[str]:
    first = (ast.get_docstring(module.tree, clean=False) or "").split("\n")[0].strip()
    if not module.text.startswith(('"""', 'r"""')) or not first:
        yield "has no docstring in its first line"


def runs_no_data(module: Module) -> Iterator[str]:
    """No pickle in any dress, no text run as code."""
    yield from (f"imports {name}" for name in module.imports() if name.split(".")[0] in RUNS_DATA)
    for name, call in module.calls():
        if name in ("eval", "exec", "builtins.eval", "builtins.exec"):
            yield f"calls {name}"
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "calls torch.load without weights_only=True"
        if given.get("allow_pickle", "False") != "False":
            yield f"calls {name} with allow_pickle"


def prints_nothing(module: Module) -> Iterator[str]:
    """Only the command line and scripts print; a library returns, raises or reports."""
    if module.name.startswith("fxpress.cli") or 'if __name__ == "__main__":' in module.text:
        return
    yield from ("calls print" for name, _ in module.calls() if name == "print")


SUMS = {kind.__module__ for kind in PASSES if kind.parts is not Pass.parts}
RULES: tuple[Rule, ...] = (
    imports_go_down,
    families_are_strangers,
    passes_are_strangers,
    libraries_stay_in_their_rooms,
    the_arbiter_stands_alone,
    is_short,
    says_its_idea_first,
    runs_no_data,
    prints_nothing,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps(rule: Rule) -> None:
    broken = [f"{module.name} {what}" for module in MODULES for what in rule(module)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (imports_go_down, "fxpress_ir.program", "import fxpress_passes"),
        (imports_go_down, "fxpress_ir.ops.pool", "from fxpress_passes import contract"),
        (imports_go_down, "fxpress_backends.bench", "def f():\n    from fxpress_passes.contract import Pass"),
        (imports_go_down, "fxpress_passes.pipeline", "from fxpress import zoo"),
        (families_are_strangers, "fxpress_passes.quantize.scales", "from ..fold.fold_batch_norm import FoldBatchNorm"),
        (families_are_strangers, "fxpress_passes.quantize.scales", "from .. import fold"),
        (passes_are_strangers, "fxpress_passes.normalize.remove_noops", "from .fold_constants import FoldConstants"),
        (libraries_stay_in_their_rooms, "fxpress_backends.onnx.run", "from tvm import relax"),
        (libraries_stay_in_their_rooms, "fxpress.cli", "import onnxruntime as ort"),
        (the_arbiter_stands_alone, "fxpress_backends.reference.kernels", "from fxpress_ir.ops import pool"),
        (the_arbiter_stands_alone, "fxpress_backends.reference.rotary", "import torch"),
        (is_short, "fxpress.cli", "\n" * 301),
        (says_its_idea_first, "fxpress.cli", 'import os\n"""Late."""'),
        (says_its_idea_first, "fxpress.cli", '"""\nLate."""'),
        (runs_no_data, "fxpress.cli", "import pickle"),
        (runs_no_data, "fxpress.cli", "eval(input())"),
        (runs_no_data, "fxpress.cli", "torch.load(file)"),
        (runs_no_data, "fxpress.cli", "np.load(file, allow_pickle=True)"),
        (prints_nothing, "fxpress_ir.program", "print(1)"),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, name: str, text: str) -> None:
    assert list(rule(Module(name, text)))


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (imports_go_down, "fxpress_passes.contract", "from fxpress_ir import Program"),
        (
            families_are_strangers,
            "fxpress_passes.quantize.to_integer",
            "from ..contract import Pass\nfrom .scales import b\nfrom ..evidence import E",
        ),
        (libraries_stay_in_their_rooms, "fxpress_backends.tvm.kernels.conv", "from tvm.script import tirx"),
        (libraries_stay_in_their_rooms, "fxpress_backends.registry", "from .onnx import lower"),
        (runs_no_data, "fxpress.cli", "model.eval()\ntorch.load(file, weights_only=True)"),
        (prints_nothing, "fxpress.cli.main", "print(1)"),
    ],
)
def test_a_rule_lets_pass_what_keeps_it(rule: Rule, name: str, text: str) -> None:
    assert not list(rule(Module(name, text)))


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_a_pass_has_one_name_everywhere(kind: type[Pass]) -> None:
    assert kind.__module__.split(".")[-1] == kind.name.replace("-", "_")
    assert kind.__name__ == "".join(map(str.capitalize, kind.name.split("-")))


def test_every_file_of_a_family_has_its_test_file() -> None:
    families = {kind.__module__.split(".")[1] for kind in PASSES}
    files = [module.name.split(".") for module in MODULES if module.package == "fxpress_passes" and not module.is_package]
    wanted = [Path("passes", parts[1], f"test_{parts[2]}.py") for parts in files if parts[1] in families]
    assert [str(file) for file in wanted if not (ROOT / "tests" / file).is_file()] == []
