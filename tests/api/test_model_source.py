"""Where models come from: a file, the zoo, a factory; and what is said when nothing comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fxpress import zoo
from fxpress.model_source import open_model
from fxpress_ir import Dimension
from fxpress_ir.errors import CaptureError, FxpressError, InputError

FACTORIES = """
import torch
from fxpress import zoo
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x.relu() + 1

class Holder:
    @staticmethod
    def make():
        return Net(), torch.ones(2, 3)

BATCH = {"x": {0: torch.export.Dim("batch")}}
number = 7

def pair():
    return Net(), (torch.ones(1, 3),)

def triple():
    return Net(), (torch.ones(1, 3),), BATCH

def exported():
    return torch.export.export(Net(), (torch.ones(2, 3),)), ()

def entry():
    return zoo.load("digits-cnn")

def lone():
    return Net()

def four():
    return Net(), (), None, None

def words():
    return "net", (torch.ones(2),)

def lists():
    return Net(), [1.0, 2.0]

def nothing():
    return Net(), 3

def shapes():
    return Net(), torch.ones(2), "batch"

def broken():
    return Net(missing=1), ()

def leaves():
    raise SystemExit(3)

def needs(size):
    return Net(), torch.ones(size)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules in it."""
    (tmp_path / "its_models").mkdir()
    (tmp_path / "its_models" / "__init__.py").write_text("")
    (tmp_path / "its_models" / "net.py").write_text(FACTORIES)
    (tmp_path / "its_models" / "fails.py").write_text("value = 1\n1 / 0\n")
    (tmp_path / "its_models" / "needs.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "its_models"]:
        del sys.modules[name]


@pytest.mark.parametrize(("name", "batch"), [("pair", 1), ("triple", "dynamic"), ("Holder.make", 2)])
def test_a_factory_gives_a_model_and_its_inputs(name: str, batch: int | str) -> None:
    source = open_model(f"its_models.net:{name}")
    program = source.capture()
    x = -torch.arange(6.0).reshape(2, 3) if batch != 1 else torch.zeros(1, 3)
    assert torch.equal(program.run(x)[0], x.relu() + 1)
    assert isinstance(program.inputs[0].shape[0], Dimension) == (batch == "dynamic")
    assert (source.calibration, source.evaluate) == (None, None)


def test_a_factory_may_export_itself() -> None:
    assert torch.equal(open_model("its_models.net:exported").capture().run(torch.zeros(2, 3))[0], torch.ones(2, 3))


@pytest.mark.parametrize("text", ["digits-cnn", "its_models.net:entry"])
def test_a_zoo_entry_brings_its_data(text: str) -> None:
    source = open_model(text)
    assert source.name == "digits-cnn"
    assert source.calibration is not None
    assert source.evaluate is not None
    assert source.evaluate(source.capture().run) > 0.9


def test_a_file_is_opened(folder: Path) -> None:
    entry = zoo.load("digits-cnn")
    images = entry.held_out[0][:3]
    exported = torch.export.export(entry.model, (images,), dynamic_shapes=entry.dynamic_shapes)
    torch.export.save(exported, folder / "digits.pt2")
    source = open_model("digits.pt2")
    assert source.name == "digits"
    with torch.no_grad():
        assert torch.equal(source.capture().run(images[:2])[0], entry.model(images[:2]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("its_models.net:lone", ("returned a Net", "(model, inputs)")),
        ("its_models.net:four", ("tuple of 4",)),
        ("its_models.net:words", ("its model is a str",)),
        ("its_models.net:lists", ("float, float", "tuple of tensors")),
        ("its_models.net:nothing", ("its inputs are int",)),
        ("its_models.net:shapes", ("dynamic_shapes are a str",)),
        ("its_models.net:broken", ("TypeError", "net.py:49", "missing")),
        ("its_models.net:leaves", ("SystemExit", "3")),
        ("its_models.net:needs", ("TypeError", "without arguments")),
        ("its_models.net:number", ("number is a int",)),
        ("its_models.net:triples", ("no attribute 'triples'", "did you mean 'triple'?")),
        ("its_models.net:Holder.nothing", ("no attribute 'nothing' in Holder",)),
        ("its_models.nets:pair", ("no module 'its_models.nets'",)),
        ("no_such_package.net:pair", ("no module 'no_such_package'",)),
        ("its_models.fails:pair", ("ZeroDivisionError", "fails.py:2")),
        ("its_models.needs:pair", ("'a_library_that_is_not_there'", "install it")),
        ("digits", ("is no file, no factory and not in the zoo", "digits-cnn")),
        ("its_models/net.py:pair", ("is no file, no factory",)),
        ("a:b:c", ("is no file, no factory",)),
        ("", ("is no file",)),
    ],
)
def test_what_is_no_model_is_said_in_one_line(text: str, words: tuple[str, ...]) -> None:
    refused(InputError, text, *words)


@pytest.mark.parametrize("name", ["gone.pt2", "hello.pt2", "hello.txt"])
def test_what_is_no_archive_is_named(name: str, folder: Path) -> None:
    for written in ("hello.pt2", "hello.txt"):
        (folder / written).write_text("hello")
    refused(CaptureError, name, name)


def refused(kind: type[FxpressError], text: str, *words: str) -> None:
    with pytest.raises(kind) as caught:
        open_model(text)
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.way_on
    for word in (text, *words):
        assert word in line
