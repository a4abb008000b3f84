"""adapter_config.json and adapter_model.safetensors of a folder ==> one frozen value; nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fxpress_ir.errors import PassError
from safetensors import SafetensorError, safe_open
from torch import Tensor

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_OUTER = ("base_model.model.", "base_model.")
_WRAPPERS = {"base_layer", "modules_to_save", "token_adapter", "ln_tuning_layers"}
"""Modules that PEFT puts between a module and its tensors."""


@dataclass(frozen=True)
class Folder:
    """An adapter as it lies on disk.

    Attributes:
        path: of the folder.
        kind: ``peft_type`` in capital letters.
        config: what ``adapter_config.json`` says.
        tensors: by key, without the names of the wrappers that a PeftModel puts around the base.
        shared: tensors of the whole adapter, which stand in the wrapper itself.
    """

    path: Path
    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]


def read_folder(path: Path) -> Folder:
    """What PEFT's ``save_pretrained`` wrote, or a folder in our own vocabulary (docs/adapters.md).

    Raises:
        PassError: a file is missing or damaged; the tensors are a pickle.
    """
    config = _config(path / _CONFIG)
    raw = _tensors(path)
    raw = {key: tensor for key, tensor in raw.items() if ".original_module." not in key}  # the base's own, beside modules_to_save
    inner = {key: tensor for key, tensor in raw.items() if key.startswith(_OUTER[0]) or not key.startswith(_OUTER[1])}
    shared = {key.removeprefix(_OUTER[1]): tensor for key, tensor in raw.items() if key not in inner}
    bare: dict[str, Tensor] = {}
    for key, tensor in inner.items():
        other = bare.setdefault(_bare(key), tensor)
        if other is not tensor and not torch.equal(other, tensor):
            what = f"{_bare(key)} stands for several tensors, as when several target_parameters of one module are adapted"
            raise PassError(what, where=repr(str(path)), way_on="merge it with PEFT")
    return Folder(path, config["peft_type"].upper(), config, bare, shared)


def _bare(key: str) -> str:
    """``base_model.model.encoder.base_layer.weight`` ==> ``encoder.weight``."""
    parts = key.removeprefix(_OUTER[0]).split(".")
    return ".".join(part for part in parts if part not in _WRAPPERS)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PassError(
            f"cannot be read: {error}", where=repr(str(path)), way_on="name a folder that PEFT's save_pretrained wrote"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise PassError("names no peft_type", where=repr(str(path)), way_on="it says which kind of adapter the tensors are")
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / _TENSORS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        way_on = "load it where you trust it and save it with save_pretrained(safe_serialization=True)"
        raise PassError("adapter_model.bin is a pickle, which can run code", where=repr(str(folder)), way_on=way_on)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PassError(f"cannot be read: {error}", where=repr(str(path)), way_on="save the adapter again") from error
