"""Of parts that compute the same the fastest is taken, by more than a tie; the bits stay, the table says what was measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.choose import AHEAD, Part, chosen, matched, parts
from fxpress_backends.tvm.physical import Plan
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.timing import microseconds
from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from support import residual_net

VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI))
NATIVE = cpu.native(cpu.host_features())
here = pytest.mark.skipif(cpu.VNNI not in NATIVE.features, reason="this CPU has no AVX512-VNNI: its kernels have no alternatives")


@pytest.fixture(scope="module")
def net() -> Program:
    return residual_net(channels=32, size=6)


def _kernels(plan: Plan) -> list[str]:
    return [str(Part(plan, (group,))) for group in plan.groups]


def _times(faster: Callable[[str], float]) -> Callable[[Sequence[Part]], Mapping[str, float]]:
    """Every part takes 100 us, less what is planted."""
    return lambda some: {part.signature: faster(str(part)) for part in some}


def test_all_as_fast_changes_nothing(net: Program) -> None:
    first = plan(net, VNNI)
    found, table = chosen(first, [plan(net, VNNI, fuses_additions=False)], _times(lambda _: 100.0))
    assert found == first
    assert {line.chosen for line in table} == {0}


@pytest.mark.parametrize(("share", "taken"), [(AHEAD + 0.005, 0), (AHEAD - 0.005, 1)])
def test_another_tile_has_to_be_ahead_by_more_than_a_tie(net: Program, share: float, taken: int) -> None:
    first = plan(net, VNNI)
    group, alternatives = next(parts(first))
    wanted = str(alternatives[1])
    found, table = chosen(first, [], _times(lambda text: 100 * share if text == wanted else 100.0))
    assert table[0].nodes == group.nodes
    assert table[0].chosen == taken
    assert table[0].alternatives[1] == wanted
    place = first.groups.index(group)
    assert str(Part(found, (found.groups[place],))) == str(alternatives[taken])


def test_a_fusion_that_is_slower_than_its_parts_is_not_used(net: Program) -> None:
    fused, apart = plan(net, VNNI), plan(net, VNNI, fuses_additions=False)
    assert len(matched(fused, apart)) == 2
    assert not [kernel for kernel in _kernels(fused) if kernel == "add"]
    found, table = chosen(fused, [apart], _times(lambda text: 90.0 if text.endswith("+ add") else 100.0))
    assert _kernels(found) == _kernels(apart)
    assert table[-1].chosen == 1
    assert re.fullmatch(r"conv2d_vnni \S+ \+ add", table[-1].alternatives[1])


def test_parts_of_other_plans_bring_their_constants(net: Program) -> None:
    """AMX's weights are packed otherwise: both packings stand side by side."""
    tiles = replace(VNNI, features=(*VNNI.features, cpu.VBMI, cpu.AMX))
    first, other = plan(net, tiles), plan(net, replace(tiles, features=tiles.features[:-1]))
    amx = {group.nodes for group in first.groups if group.kernel.endswith("_amx")}
    assert amx
    found, _ = chosen(first, [other], _times(lambda text: 100.0 if "amx" in text else 50.0))
    by_nodes = {group.nodes: group for group in found.groups}
    for nodes in amx:
        group = by_nodes[nodes]
        assert group.kernel.endswith("_vnni")
        theirs = next(group for group in other.groups if group.nodes == nodes)
        for mine, name in zip(group.constants, theirs.constants, strict=True):
            assert np.array_equal(found.constants[mine], other.constants[name])


@here
def test_every_alternative_gives_the_same_bits_and_the_table_is_kept(net: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times as they are for the table, then planted ones, so that what is not the first choice runs too."""
    x = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = net.run(x)[0].numpy()
    monkeypatch.setattr("fxpress_backends.tvm.timing.ROUNDS", 5)
    monkeypatch.setattr("fxpress_backends.tvm.alternatives.PREFETCHES", ((16, 1),))
    artifact = fx.lower(net, "tvm:native", out=tmp_path / "measured", tune={"batch": 2})
    assert np.array_equal(artifact.run(x)[0], expected)
    record = artifact.manifest["details"]["tuned"]
    assert record["sizes"] == {"batch": 2}
    assert all(len(line["microseconds"]) == len(line["alternatives"]) > 1 for line in record["table"])
    assert all(min(line["microseconds"]) > 0 for line in record["table"])

    def last_is_fastest(some: Sequence[Part], *_: object) -> dict[str, float]:
        return {part.signature: 100.0 * 0.9**place for place, part in enumerate(some)}

    monkeypatch.setattr("fxpress_backends.tvm.tune.microseconds", last_is_fastest)
    turned = fx.lower(net, "tvm:native", out=tmp_path / "turned", tune={})
    assert all(line["chosen"] for line in turned.manifest["details"]["tuned"]["table"])
    assert np.array_equal(turned.run(x)[0], expected)


@here
def test_equal_parts_are_measured_once(net: Program) -> None:
    first = plan(net, NATIVE)
    (part,) = {str(part.signature): part for _, some in list(parts(first))[:1] for part in some[:1]}.values()
    found = microseconds([part, part], NATIVE, {"batch": 1}, 1)
    assert list(found) == [part.signature]
    assert microseconds([], NATIVE, {}, 1) == {}


@pytest.mark.parametrize(
    ("target", "tune", "message"),
    [
        ("reference", {}, r"target 'reference': has no kernels to choose between; lower without tune"),
        ("tvm:riscv64", {}, r"tvm:riscv64: nothing to time: this machine does not run it; lower without tune"),
        ("tvm:native", {"rows": 2}, r"tvm:native: no dynamic dimension 'rows'; there is batch"),
        ("tvm:native", {"batch": 0}, r"tvm:native: batch=0 is outside of batch; give a size that the program takes"),
    ],
)
def test_what_cannot_be_timed_is_one_line(net: Program, tmp_path: Path, target: str, tune: dict[str, int], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        fx.lower(net, target, out=tmp_path / "artifact", tune=tune)
    assert not (tmp_path / "artifact").exists()
