"""Instructions that give wrong integers are found at their extremes, left alone by what is lowered here, and refused by what is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_backends.tvm import cpu, selftest
from fxpress_ir.errors import BackendError
from support import residual_net

NATIVE = cpu.native(cpu.host_features())
pytestmark = pytest.mark.skipif(cpu.AVX2 not in NATIVE.features, reason="this CPU has no AVX2: nothing is tested on it")
NO_VNNI = pytest.mark.skipif(cpu.VNNI not in NATIVE.features, reason="this CPU has no AVX512-VNNI")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    selftest.exact_features.cache_clear()
    yield
    selftest.exact_features.cache_clear()


def _saturating(x: selftest.Numbers, w: selftest.Numbers, y: selftest.Numbers) -> selftest.Numbers:
    """What adding pairs in 16 bits gives, as vpmaddubsw does."""
    pairs = np.clip((x * w).reshape(selftest.LANES, -1, 2).sum(2), -(1 << 15), (1 << 15) - 1)
    return y + pairs.sum(1)


def _without_wrapping(x: selftest.Numbers, w: selftest.Numbers, y: selftest.Numbers) -> selftest.Numbers:
    return np.clip(selftest._sums(x, w, y), -(1 << 31), (1 << 31) - 1)


def _plant(monkeypatch: pytest.MonkeyPatch, feature: str, wanted: object, test: int = 0) -> None:
    """Ask an instruction for integers that are not its own."""
    tests = [list(each) for each in selftest._TESTS[feature]]
    tests[test][-1] = wanted
    monkeypatch.setattr(selftest, "_TESTS", {**selftest._TESTS, feature: tuple(map(tuple, tests))})


def test_this_cpu_is_exact() -> None:
    assert selftest.exact_features() == (cpu.host_features(), "")
    assert selftest.proved(NATIVE) == (NATIVE, "")


@pytest.mark.parametrize(
    ("feature", "wanted", "test"),
    [
        pytest.param(cpu.VNNI, _saturating, 0, marks=NO_VNNI),
        pytest.param(cpu.VNNI, _without_wrapping, 0, marks=NO_VNNI),
        pytest.param(cpu.VNNI, _without_wrapping, 1, marks=NO_VNNI),
        (cpu.AVX2, _saturating, 0),
        (cpu.AVX2, _without_wrapping, 0),
    ],
)
def test_the_extremes_tell_other_arithmetic_apart(monkeypatch: pytest.MonkeyPatch, feature: str, wanted: object, test: int) -> None:
    levels = NATIVE.features[: NATIVE.features.index(feature) + 1]
    assert selftest.is_exact(feature, levels)
    _plant(monkeypatch, feature, wanted, test)
    assert not selftest.is_exact(feature, levels)


@NO_VNNI
def test_lowering_falls_back_with_a_message_and_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = residual_net(channels=16, size=6)
    before = fx.lower(program, "tvm:native", out=tmp_path / "before")
    selftest.exact_features.cache_clear()
    _plant(monkeypatch, cpu.VNNI, _saturating)
    with pytest.warns(UserWarning, match="this CPU's avx512-vnni failed its self-test: kernels use x86-64-v4 instead"):
        artifact = fx.lower(program, "tvm:native", out=tmp_path / "after")
    assert artifact.manifest["details"]["fallback"].startswith("this CPU's avx512-vnni failed")
    kernels = {group["kernel"] for group in artifact.manifest["details"]["groups"]}
    assert not {kernel for kernel in kernels if kernel.endswith(("_vnni", "_pairs", "_amx", "_permute"))}
    assert {kernel for kernel in kernels if kernel.endswith("_avx2")}
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(artifact.run(x)[0], program.run(x)[0].numpy())
    with pytest.raises(BackendError, match="avx512-vnni failed its self-test; lower to tvm:native here, which does without it"):
        fx.load(before.folder).run(x)


def test_without_products_of_pairs_loops_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "is_exact", lambda feature, _: feature != cpu.AVX2)
    message = "this CPU's x86-64-v3 failed its self-test: kernels use x86-64-v2 instead"
    card, said = selftest.proved(NATIVE)
    assert (card.features, card.description, said) == (("x86-64", "x86-64-v2"), "this CPU, plain loops", message)


def test_cards_of_other_machines_are_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "is_exact", lambda *_: pytest.fail("tested"))
    for card in (cpu.x86_64(), *cpu.levels(NATIVE.features), replace(NATIVE, name="tvm:x86-64-vnni")):
        assert selftest.proved(card) == (card, "")
