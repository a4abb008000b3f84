"""Levels of x86-64 as targets, AMX's permission, and whole programs in emulated tiles: the reference's bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from amx_cases import EMULATED, Emulated, transformer_block
from fxpress_backends.artifact import lower
from fxpress_backends.registry import BACKENDS, Entry, find
from fxpress_backends.tvm import TVM, cpu
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from support import residual_net

BELOW = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
FULL = (*BELOW, cpu.VNNI, cpu.VBMI, cpu.AMX)
REGISTRY = (Entry("tvm", Emulated, ("apache-tvm",)),)


def test_levels_hold_what_they_name_and_run_where_it_is_offered() -> None:
    cards = {offered: cpu.levels(offered)[1:] for offered in ((), (*BELOW, cpu.VNNI), FULL[:-1], FULL)}
    assert [card.features for card in cards[FULL]] == [FULL[:5], FULL]
    assert [[card.runs_here for card in found] for found in cards.values()] == [[False, False], [True, False], [True, False], [True, True]]
    assert [card.stages for card in cards[FULL[:-1]]] == [("float", "mixed", "integer"), ("integer",)]
    assert {card.name for card in cards[()]} <= {card.name for card in TVM.targets()}


def test_tiles_are_native_where_the_cpu_has_them_and_emulated_nowhere() -> None:
    assert cpu.features_of("x86_64", frozenset(" ".join(cpu.LEVELS.values()).split())) == FULL
    assert (cpu.native(FULL).description, cpu.native(FULL).features) == ("this CPU, AMX tiles", FULL)
    assert cpu.emulated_amx(FULL).features == cpu.emulated_amx(()).features == (*FULL[:-1], cpu.EMULATED_AMX)
    assert not cpu.emulated_amx((*BELOW, cpu.VNNI)).runs_here
    assert all(cpu.EMULATED_AMX not in card.features for card in TVM.targets())
    with pytest.raises(BackendError, match="unknown target 'tvm:x86-64-amx-emulated'"):
        find(EMULATED.name, BACKENDS)


def test_llvm_is_told_of_tiles_unless_they_are_emulated() -> None:
    assert cpu.llvm_target(cpu.levels(())[2])["mattr"] == ["+avx512vnni", "+avx512vbmi", "+amx-int8"]
    assert cpu.llvm_target(EMULATED)["mattr"] == ["+avx512vnni", "+avx512vbmi"]


@pytest.mark.skipif(cpu.AMX in cpu.host_features(), reason="this CPU has AMX")
def test_a_cpu_without_tiles_says_so(tmp_path: Path) -> None:
    from fxpress_backends.tvm.run import ask_for_tiles  # with it comes TVM

    with pytest.raises(BackendError, match=r"^the kernel gives this process no AMX tiles: .*; take tvm:x86-64-vnni"):
        ask_for_tiles()
    manifest = {"target": "tvm:x86-64-amx", "details": {"library": "missing.so", "features": list(FULL)}}
    with pytest.raises(BackendError, match=r"^tvm:x86-64-amx: this CPU has no .*; take tvm:"):
        TVM.load(tmp_path, manifest, {})


def test_permission_is_asked_for_before_a_library_of_tiles_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fxpress_backends.tvm import run

    asked: list[str] = []
    monkeypatch.setattr(run, "host_features", lambda: FULL)
    monkeypatch.setattr(run, "ask_for_tiles", lambda: asked.append("asked"))
    for features, times in ((FULL[:-1], 0), ((*FULL[:-1], cpu.EMULATED_AMX), 0), (FULL, 1)):
        with pytest.raises(BackendError, match=r"TVM cannot load missing\.so"):
            TVM.load(tmp_path, {"target": "tvm:native", "details": {"library": "missing.so", "features": list(features)}}, {})
        assert len(asked) == times


PROGRAMS: dict[str, tuple[Callable[[], Program], tuple[int, ...], set[str]]] = {
    "convolutions": (lambda: residual_net(channels=32, size=12), (3, 12, 12), {"conv2d_amx", "linear_vnni"}),
    "transformer": (transformer_block, (19, 64), {"linear_amx", "attention_amx"}),
}


@pytest.mark.skipif(not EMULATED.runs_here, reason="this CPU has no AVX512-VBMI")
@pytest.mark.parametrize("name", PROGRAMS)
def test_whole_programs(name: str, tmp_path: Path) -> None:
    """At two batches, on one thread and on several; lowered twice, the files are the same bytes."""
    from fxpress_backends.tvm import run

    make, shape, kernels = PROGRAMS[name]
    program = make()
    assert {group.kernel for group in plan(program, EMULATED).groups} >= kernels
    found = [lower(program, EMULATED.name, tmp_path / folder, registry=REGISTRY) for folder in ("first", "second")]
    assert found[0].manifest["files"] == found[1].manifest["files"]
    reference, manifest = lower(program, "reference", tmp_path / "reference"), found[0].manifest
    for threads, batch in ((1, 1), (run.logical_cpus(), 3)):
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch)) * 3
        results = TVM.load(found[0].folder, manifest, {"threads": threads}).run([x.numpy()])
        for result, expected in zip((*results, *found[1].run(x)), (*reference.run(x), *reference.run(x)), strict=True):
            np.testing.assert_array_equal(result, expected)
