"""A linear layer of any shape under any rank and scale: the folded matrix times x is what PEFT gives; other shapes are refused."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peft
import pytest
import torch
from fxpress_ir.errors import PassError
from fxpress_passes.fold.adapters.combine import Part
from fxpress_passes.fold.adapters.folder import read_folder
from fxpress_passes.fold.adapters.kinds import KINDS
from fxpress_passes.fold.adapters.layer import Layer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

_FC: dict[str, Any] = {"target_modules": ["fc"]}
FORMS: dict[str, Callable[[int, float], Any]] = {
    "lora": lambda r, alpha: peft.LoraConfig(r=r, lora_alpha=alpha, **_FC),
    "rslora": lambda r, alpha: peft.LoraConfig(r=r, lora_alpha=alpha, use_rslora=True, lora_bias=True, **_FC),
    "dora": lambda r, alpha: peft.LoraConfig(r=r, lora_alpha=alpha, use_dora=True, **_FC),
    "adalora": lambda r, alpha: peft.AdaLoraConfig(init_r=r, lora_alpha=alpha, total_step=9, **_FC),
    "loha": lambda r, alpha: peft.LoHaConfig(r=r, alpha=alpha, **_FC),
    "lokr": lambda r, alpha: peft.LoKrConfig(r=r, alpha=alpha, **_FC),
    "hira": lambda r, alpha: peft.HiraConfig(r=r, **_FC),
    "vera": lambda r, alpha: peft.VeraConfig(r=r, **_FC),
    "randlora": lambda r, alpha: peft.RandLoraConfig(r=r, randlora_alpha=alpha, **_FC),
    "miss": lambda r, alpha: peft.MissConfig(r=r, **_FC),
    "delora": lambda r, alpha: peft.DeloraConfig(r=r, delora_lambda=alpha, **_FC),
    "hra": lambda r, alpha: peft.HRAConfig(r=r, **_FC),
    "fourierft": lambda r, alpha: peft.FourierFTConfig(n_frequency=r, scaling=alpha, **_FC),
    "waveft": lambda r, alpha: peft.WaveFTConfig(n_frequency=r, scaling=alpha, **_FC),
    "peanut": lambda r, alpha: peft.PeanutConfig(r=r, depth=1, **_FC),
    "ia3": lambda r, alpha: peft.IA3Config(feedforward_modules=["fc"] if r % 2 else [], **_FC),
}


def saved(label: str, inputs: int, outputs: int, rank: int, alpha: int, bias: bool) -> tuple[nn.Module, Part]:
    """A layer with its adapter, and the same layer's weight with what PEFT wrote."""
    torch.manual_seed(inputs * 100 + outputs)
    model = nn.Sequential(OrderedDict(fc=nn.Linear(inputs, outputs, bias=bias or label == "rslora")))
    weight, shift = model.fc.weight.detach().clone().double(), None if model.fc.bias is None else model.fc.bias.detach().clone().double()
    with TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(model, FORMS[label](rank, float(alpha))).eval()
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
        tuned.save_pretrained(name)
        folder = read_folder(Path(name))
    tensors = {key.removeprefix("fc."): tensor for key, tensor in folder.tensors.items()}
    return tuned, Part(Layer("fc", "linear", weight, shift, tensors, folder.shared, folder.config, "folder"), KINDS[folder.kind], 1.0)


@pytest.mark.parametrize("label", FORMS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(inputs=st.integers(5, 13), outputs=st.integers(5, 13), rank=st.integers(1, 4), alpha=st.integers(1, 9), bias=st.booleans())
def test_the_folded_matrix_is_the_layer(label: str, inputs: int, outputs: int, rank: int, alpha: int, bias: bool) -> None:
    tuned, part = saved(label, inputs, outputs, rank, alpha, bias)
    folded, moved = part.folded()
    x = torch.randn(7, inputs)
    with torch.no_grad():
        wanted = tuned(x).double()
    found = x.double() @ folded.T + (0 if moved is None else moved)
    # PEFT computes in float32: some units in the last place of the largest term.
    assert float((found - wanted).abs().max()) < 2e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("label", FORMS)
def test_a_tensor_of_another_shape_never_spreads(label: str) -> None:
    """Sizes of 1 would broadcast; one less would be another layer's."""
    _, part = saved(label, 12, 7, 3, 5, True)
    for name, tensor in part.layer.tensors.items():
        if name in ("randlora_A", "randlora_B"):
            continue  # parts of what is common to all layers
        for axis, size in product(range(tensor.dim()), (1, -1)):
            size = size if size > 0 else tensor.shape[axis] - 1
            if not 0 < size < tensor.shape[axis]:
                continue
            cut = {**part.layer.tensors, name: tensor.narrow(axis, 0, size)}
            with pytest.raises(PassError, match="folder: fc: "):
                replace(part, layer=replace(part.layer, tensors=cut, read=set())).folded()
