"""program ==> the tensors that are smaller as one bit an element and the elements that are not zero; sizes, no claim of speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sparse:
    """A tensor's elements, how many of them are zero, and its bytes as it is and as bitmask and values."""

    elements: int
    zeros: int
    dense_bytes: int
    sparse_bytes: int


def sparse(tensors: Mapping[str, Tensor]) -> dict[str, Sparse]:
    """Of each tensor, by name, that takes fewer bytes as bitmask and values; of integers and floats of any stage."""
    found = {name: _measured(tensor.detach()) for name, tensor in tensors.items()}
    return {name: one for name, one in found.items() if one.sparse_bytes < one.dense_bytes}


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors, each in the smaller of the two forms."""
    measured = (_measured(tensor.detach()) for tensor in tensors.values())
    return sum(min(one.dense_bytes, one.sparse_bytes) for one in measured)


def _measured(tensor: Tensor) -> Sparse:
    elements, kept, size = tensor.numel(), int(tensor.count_nonzero()), tensor.element_size()
    return Sparse(elements, elements - kept, elements * size, -(-elements // 8) + kept * size)
