"""Targets of other machines: their cards, and libraries that are linked, never opened, here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fxpress_backends.artifact import load, lower
from fxpress_backends.contract import Target
from fxpress_backends.tvm import TVM, cpu
from fxpress_backends.tvm.cross import AARCH64, DOTPROD, I8MM, MACHINES, RISCV64, cards
from fxpress_backends.tvm.tile import NEON_REGISTERS, image_tile, matrix_tile, registers
from fxpress_ir import capture
from fxpress_ir.errors import BackendError
from support import residual_net

ELSEWHERE = [target for target in TVM.targets() if target.features[0] in MACHINES and not target.runs_here]
EM = {AARCH64: 183, RISCV64: 243}
"""e_machine of ELF."""


@pytest.mark.parametrize("target", ELSEWHERE, ids=lambda target: target.name)
def test_a_library_for_another_machine_is_linked_and_stays_closed(target: Target, tmp_path: Path) -> None:
    kind = target.features[0]
    machine = MACHINES[kind]
    if shutil.which(machine.compiler) is None:
        pytest.skip(f"no {machine.compiler}: install Debian's {machine.package}")
    artifacts = [lower(residual_net(), target.name, tmp_path / name) for name in ("first", "second")]
    assert artifacts[0].manifest["files"] == artifacts[1].manifest["files"]
    details = artifacts[0].manifest["details"]
    assert details["unchecked"] == "linked for another kind of machine, not opened here: no bits were compared"
    assert details["llvm_target"]["mtriple"] == f"{kind}-linux-gnu"
    header = (tmp_path / "first" / details["library"]).read_bytes()[:20]
    assert header[:5] == b"\x7fELF\x02"
    assert int.from_bytes(header[18:20], "little") == EM[kind]
    here = cpu.host_features()[0]
    refusal = rf"^{target.name}: its library is for {kind}, this machine is {here}; copy the folder .*edge.md"
    with pytest.raises(BackendError, match=refusal):
        load(tmp_path / "first").run(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("target", ELSEWHERE, ids=lambda target: target.name)
def test_without_the_cross_compiler_nothing_is_written(target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    triple = MACHINES[target.features[0]].triple
    with pytest.raises(BackendError, match=rf"{target.name}: no {triple}-g\+\+ .*Debian's package is g\+\+-{triple}"):
        TVM.lower(residual_net(), target, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_another_cpu_of_the_kind_lacks(tmp_path: Path) -> None:
    here = cpu.host_features()[0]
    manifest = {"target": "tvm:native", "details": {"library": "missing.so", "features": [here, "newer"]}}
    with pytest.raises(BackendError, match=f"this CPU has no newer; take tvm:{here}, or lower to tvm:native here"):
        TVM.load(tmp_path, manifest, {})


@pytest.mark.parametrize("target", ELSEWHERE, ids=lambda target: target.name)
def test_floats_are_refused(target: Target, tmp_path: Path) -> None:
    program = capture(torch.nn.ReLU(), (torch.zeros(2, 3),))
    (refusal,) = TVM.legalize(program, target)
    assert (refusal.node, refusal.reason, refusal.way_on) == ("program", "its stage is float", f"{target.name} takes integer programs")
    with pytest.raises(BackendError, match="its stage is float"):
        TVM.lower(program, target, tmp_path)


def test_cards_run_where_their_machine_is() -> None:
    assert [card.runs_here for card in cards(("x86-64", "x86-64-v2"))] == [False] * len(cards(()))
    assert [card.name for card in cards((AARCH64,)) if card.runs_here] == ["tvm:aarch64"]
    names = ["tvm:aarch64", "tvm:aarch64-dotprod", "tvm:aarch64-i8mm"]
    for flags, count in ((["asimd", "i8mm"], 1), (["asimd", "asimddp"], 2), (["asimd", "asimddp", "i8mm"], 3)):
        offered = cpu.features_of("aarch64", frozenset(flags))
        assert [card.name for card in cards(offered) if card.runs_here] == names[:count]
    newest = ((AARCH64, DOTPROD, I8MM), ["+neon", "+dotprod", "+i8mm"])
    for features, attributes in (((AARCH64,), ["+neon"]), ((AARCH64, DOTPROD), ["+neon", "+dotprod"]), newest):
        assert cpu.llvm_target(cpu.native(features)) == {**MACHINES[AARCH64].llvm_target(()), "mattr": attributes}
    assert {card.storage for card in cards(())} == {"s8"}


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (56, 56), (3, 20)])
@pytest.mark.parametrize("vectors", range(1, 9))
def test_tiles_fit_the_registers_of_neon(size: tuple[int, int], vectors: int) -> None:
    rows, columns, wide = image_tile(*size, vectors, NEON_REGISTERS)
    assert vectors % wide == 0
    assert registers(rows * columns, wide) <= NEON_REGISTERS
    if size != (1, 1):
        rows, columns, wide = image_tile(*size, vectors, NEON_REGISTERS, together=2)
        assert (rows * columns % 2, registers(rows * columns, wide) <= NEON_REGISTERS) == (0, True)
    tall, wide = matrix_tile(vectors, NEON_REGISTERS)
    assert vectors % wide == 0
    assert tall >= 4
    assert tall % 2 == 0
    assert registers(tall, wide) <= NEON_REGISTERS
