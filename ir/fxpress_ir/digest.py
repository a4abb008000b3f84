"""tensor ==> SHA-256 of its dtype, shape and bytes, computed once as long as the tensor is not changed."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import torch
from torch import Tensor

_DIGESTS: dict[int, tuple[Any, int, str]] = {}


def version(tensor: Tensor) -> int:
    """A count of in-place changes; -1 for inference tensors, which cannot be changed in place outside inference mode."""
    return -1 if tensor.is_inference() else tensor._version


def digest(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes; cached for as long as the tensor lives unchanged."""
    known = _DIGESTS.get(id(tensor))
    if known is not None and known[0]() is tensor and known[1] == version(tensor):
        return known[2]
    state = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    _DIGESTS[id(tensor)] = (weakref.ref(tensor), version(tensor), state.hexdigest())
    weakref.finalize(tensor, _DIGESTS.pop, id(tensor), None)
    return state.hexdigest()
