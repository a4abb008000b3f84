"""What the report says of a folder: on which inputs a layer was held, what PEFT's merge would give instead, what is the folder's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.fold.adapters import fold_folder
from fxpress_passes.fold.certificate import Certificate
from fxpress_passes.pipeline import Pipeline
from peft_cases import CASES, config
from peft_folders import IDS, Net, adapted, peft_model, program, relative

RTOL = 2e-5
"""PEFT adds its branch in float32, a fold rounds each weight once: some 2e-7 a layer, through all layers."""


@pytest.mark.parametrize("label", ["lora", "lora-tied-head", "lora-tied-both"])
def test_where_merging_gives_something_else_than_pefts_forward_it_says_so(label: str, tmp_path: Path) -> None:
    wanted, context = adapted("llama", config(label), tmp_path), Context()
    with torch.no_grad():
        merged = Net(peft_model("llama", config(label)).merge_and_unload())(IDS)
    folded = fold_folder(program("llama"), [tmp_path], context)
    assert relative(folded.run(IDS)[0], wanted) < RTOL
    told = [note for note in context.notes if "its merge_and_unload all of them" in str(note)]
    assert bool(told) == (relative(merged, wanted) > 100 * RTOL) == (label != "lora")


@pytest.mark.parametrize("label", ["lora-of-conv1d", "lora-bias", "lora-convolutions", "lora-tied-embedding", "lora-experts"])
def test_layers_are_held_on_what_they_read_in_calibration_data(label: str, tmp_path: Path) -> None:
    """A bare parameter, which any operator may read, is held on its own values."""
    name = CASES[label][0]
    adapted(name, config(label), tmp_path)
    context = Context(Evidence(Calibration([(IDS,)])))
    fold_folder(program(name), [tmp_path], context)
    found = [note for note in context.notes if isinstance(note, Certificate)]
    assert {note.inputs for note in found} == {"random" if label == "lora-experts" else "calibration"}
    assert all(note.residual < 1e-6 for note in found)


def test_a_wrong_fold_would_be_seen_on_calibration_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted("bert", config("lora-bias"), tmp_path)
    rounded = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda tensor: rounded(tensor) * 1.01)
    context = Context(Evidence(Calibration([(IDS,)])))
    fold_folder(program("bert"), [tmp_path], context)
    assert all(note.residual > 1e-3 for note in context.notes if isinstance(note, Certificate))


def test_a_simulated_base_is_held_on_what_its_quantisers_give(tmp_path: Path) -> None:
    adapted("bert", config("lora-bias"), tmp_path)
    simulated = Pipeline.parse("place-quantizers").run(program("bert"), calibration=[(IDS,)]).program
    context = Context(Evidence(Calibration([(IDS,)])))
    fold_folder(simulated, [tmp_path], context)
    found = [note for note in context.notes if isinstance(note, Certificate)]
    assert {note.inputs for note in found} == {"calibration"}
    assert all(note.residual < 1e-6 for note in found)


def test_tensors_that_are_the_folders_own_are_named(tmp_path: Path) -> None:
    adapted("bert", config("norms"), tmp_path)
    context = Context()
    folded = fold_folder(program("bert"), [tmp_path], context)
    changed = [name for name, value in folded.tensors.items() if value is not program("bert").tensors[name]]
    assert sorted(map(str, context.notes)) == sorted(f"{name} is that of {tmp_path}" for name in changed)
