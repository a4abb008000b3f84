"""A digest is a function of dtype, shape and bytes; it is computed once and noticed to be stale."""

from __future__ import annotations

import gc
import hashlib

import fxpress_ir.digest
import pytest
import torch
from fxpress_ir.digest import digest, version
from torch import Tensor, nn

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 4)])
def test_equal_tensors_have_equal_digests(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert digest(torch.ones(shape, dtype=dtype)) == digest(torch.ones(shape, dtype=dtype))


def test_dtype_shape_and_bytes_each_count() -> None:
    zeros = [torch.zeros(shape, dtype=dtype) for shape in ((4,), (2, 2), (4, 1)) for dtype in DTYPES]
    others = [torch.tensor([0.0, 0.0, 0.0, -0.0]), torch.tensor([0.0, 0.0, 0.0, torch.nan])]
    assert len({digest(tensor) for tensor in (*zeros, *others)}) == len(zeros) + len(others)


def test_the_digest_is_sha_256_of_what_it_says() -> None:
    expected = hashlib.sha256(b"torch.int8(2, 2)" + bytes([1, 2, 3, 255])).hexdigest()
    assert digest(torch.tensor([[1, 2], [3, -1]], dtype=torch.int8)) == expected


def test_layout_in_memory_does_not_count() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    assert digest(x.t()) == digest(x.t().contiguous()) != digest(x)
    assert digest(nn.Parameter(x)) == digest(x)


def test_a_digest_is_computed_once_until_the_tensor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    sha256 = hashlib.sha256
    monkeypatch.setattr(fxpress_ir.digest.hashlib, "sha256", lambda data: calls.append(data) or sha256(data))
    x = torch.zeros(4)
    before = digest(x)
    assert digest(x) == before
    assert len(calls) == 1
    x[0] = 1
    assert digest(x) != before
    assert digest(x) == digest(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert len(calls) == 3


def test_digests_die_with_their_tensors() -> None:
    known = fxpress_ir.digest._DIGESTS
    x = torch.zeros(5)
    digest(x)
    x += 1
    digest(x)
    key = id(x)
    assert key in known
    del x
    gc.collect()
    assert key not in known


def test_inference_tensors_have_a_version_of_their_own() -> None:
    with torch.inference_mode():
        x = torch.zeros(3)
    assert version(x) == -1
    assert digest(x) == digest(torch.zeros(3))
    assert version(torch.zeros(3)) == 0
