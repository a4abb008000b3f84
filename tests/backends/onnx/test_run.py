"""Sessions: options, errors in one line, and the self-test that guards against saturating kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX, run
from fxpress_ir.errors import BackendError
from support import attending_net, moving_net, residual_net


@pytest.fixture
def folder(tmp_path: Path, targets: Mapping[str, Target]) -> Path:
    ONNX.lower(residual_net(), targets["onnx:qlinear"], tmp_path)
    return tmp_path


@pytest.fixture
def forget() -> Iterator[None]:
    run.exact_entries.cache_clear()
    yield
    run.exact_entries.cache_clear()


def test_threads_and_providers_change_no_bit(folder: Path) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    (expected,) = residual_net().run(x)
    for options in ({}, {"threads": 2}, {"providers": ["CPUExecutionProvider"]}):
        (result,) = ONNX.load(folder, {"target": "onnx:qlinear"}, options).run([x.numpy()])
        np.testing.assert_array_equal(result, expected.numpy())


def test_the_u8_kernels_for_older_processors_give_the_same_bits(folder: Path) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4)) * 4
    assert run.self_test(run.PRECISE)
    session = run.open_session(str(folder / "model.onnx"), run.PRECISE)
    np.testing.assert_array_equal(session.run(None, {"x": x.numpy()})[0], residual_net().run(x)[0].numpy())


def test_unfused_adds_for_other_processors_give_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.platform, "machine", lambda: "aarch64")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 4
    (result,) = ONNX.load(folder, {"target": "onnx:qlinear"}, {}).run([x.numpy()])
    np.testing.assert_array_equal(result, residual_net().run(x)[0].numpy())


def test_unfused_products_for_other_processors_give_the_same_bits(
    tmp_path: Path, targets: Mapping[str, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.platform, "machine", lambda: "aarch64")
    ONNX.lower(moving_net(), targets["onnx:qlinear"], tmp_path)
    x = torch.randn(3, 6, 7, 6, generator=torch.Generator().manual_seed(5)) * 4
    (result,) = ONNX.load(tmp_path, {"target": "onnx:qlinear"}, {}).run([x.numpy()])
    np.testing.assert_array_equal(result, moving_net().run(x)[0].numpy())


def test_the_self_test_counts_exactly() -> None:
    entries = run.exact_entries()
    assert all(run.self_test(entries, depth=depth) for depth in (4, 64, 1024))


@pytest.mark.usefixtures("forget")
def test_a_processor_that_needs_it_gets_the_u8_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "self_test", lambda entries: entries == run.PRECISE)
    assert run.exact_entries() == run.PRECISE


@pytest.mark.usefixtures("forget")
def test_a_processor_whose_kernels_are_not_exact_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "self_test", lambda entries: False)
    with pytest.raises(BackendError, match="kernels saturate; use target reference"):
        ONNX.load(folder, {"target": "onnx:qlinear"}, {})


def test_computed_products_have_a_self_test_of_their_own(
    folder: Path, tmp_path: Path, targets: Mapping[str, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a session entry does for weights it does not do for computed operands: only models that have such are refused."""
    assert run.computed_products_are_exact()
    monkeypatch.setattr(run, "computed_products_are_exact", lambda: False)
    ONNX.load(folder, {"target": "onnx:qlinear"}, {})
    attending = tmp_path / "attending"
    attending.mkdir()
    ONNX.lower(attending_net(), targets["onnx:qlinear"], attending)
    with pytest.raises(BackendError, match="two computed tensors saturate; use target reference"):
        ONNX.load(attending, {"target": "onnx:qlinear"}, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fast": True}, "unknown option 'fast'; one of providers, threads"),
        ({"providers": ["NoProvider"]}, "no provider 'NoProvider'; one of .*CPU"),
    ],
)
def test_options_that_are_not_known(folder: Path, options: Mapping[str, object], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        ONNX.load(folder, {"target": "onnx:qlinear"}, options)


def test_a_damaged_file_and_wrong_inputs(folder: Path) -> None:
    session = ONNX.load(folder, {"target": "onnx:qlinear"}, {})
    with pytest.raises(BackendError, match="2 inputs given, 1 expected; pass x"):
        session.run([np.zeros((1, 3, 8, 8), np.float32)] * 2)
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        session.run([np.zeros((1, 3, 9), np.float32)])
    (folder / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BackendError, match=r"model\.onnx: ONNX Runtime cannot open it"):
        ONNX.load(folder, {"target": "onnx:qlinear"}, {})
