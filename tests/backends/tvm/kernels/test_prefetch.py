"""A prefetch is an instruction where one is asked for, none where not, stays inside of its buffer, and changes no bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from fxpress_backends.contract import Target
from fxpress_backends.tvm import TVM, cpu
from fxpress_backends.tvm.alternatives import PREFETCHES, prefetches, tiles, with_prefetch
from fxpress_backends.tvm.choose import Part, chosen
from fxpress_backends.tvm.cpu import llvm_target
from fxpress_backends.tvm.kernels import prim_func
from fxpress_backends.tvm.physical import Group, Plan
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.sizes import value
from fxpress_ir import Program
from numpy.typing import NDArray
from several import several
from tvm_cases import S8, convolution, linear

CARDS = {card.name: card for card in TVM.targets()}
INSTRUCTIONS = {"tvm:x86-64-vnni": "prefetcht0", "tvm:x86-64-avx2": "prefetcht0", "tvm:aarch64-i8mm": "prfm"}
WIDE = (32, 40, 1, (5, 9), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
GROUPED = (64, 64, 2, (6, 7), (2, 3), (2, 2), (1, 1, 0, 1), (1, 1))
BATCH = 3


@pytest.fixture(scope="module")
def program() -> Program:
    """Layers of a few steps and of many, rows that fill no tile, and words of 16 bits."""
    inputs = [(("batch", case[0], *case[3]), torch.int8) for case in (WIDE, GROUPED)]
    inputs += [(("batch", 9, 72), torch.int8), (("batch", 5, 40), torch.int16)]
    bodies = [convolution(WIDE, 1, S8), convolution(GROUPED, 2, S8), linear(72, 33, 1), linear(40, 17, 3)]
    return several(inputs, lambda edit, *xs: [body(edit, x) for body, x in zip(bodies, xs, strict=True)])


def layers(plan: Plan) -> list[Group]:
    return [group for group in plan.groups if group.kernel.startswith(("conv2d", "linear")) and not group.kernel.endswith("loops")]


def compiled(plan: Plan, groups: list[Group], target: Target) -> tvm.runtime.Executable:
    functions = {f"f{place}": prim_func(plan, group).with_attr("global_symbol", f"f{place}") for place, group in enumerate(groups)}
    return tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(llvm_target(target)))


def results(plan: Plan, groups: list[Group], target: Target) -> list[NDArray[np.generic]]:
    executable, found = compiled(plan, groups, target), []
    for place, group in enumerate(groups):
        draw = np.random.default_rng(place)
        buffers = [plan.buffers[name] for name in (*group.inputs, group.output)]
        arrays = [draw.integers(-128, 128, [int(value(size, {"batch": BATCH})) for size in b.sizes]).astype(b.dtype) for b in buffers]
        arrays[-1][:] = 0
        memories = [tvm.runtime.tensor(array) for array in arrays]
        constants = [tvm.runtime.tensor(plan.constants[name]) for name in group.constants]
        executable[f"f{place}"](*memories[:-1], *constants, *[BATCH for _ in plan.symbols(group)], memories[-1])
        found.append(memories[-1].numpy())
    return found


@pytest.mark.parametrize("name", list(INSTRUCTIONS))
def test_the_instruction_is_there_where_it_is_asked_for(name: str, program: Program) -> None:
    whole, word = plan(program, CARDS[name]), INSTRUCTIONS[name]
    groups = layers(whole)[::2]
    assert len(groups) == 2
    counts = []
    for ahead in ((0, 0), (5, 0), (0, 1)):
        executable = compiled(whole, [with_prefetch(group, *ahead) for group in groups], CARDS[name])
        counts.append(executable.mod.inspect_source("asm").count(word))
    assert counts[0] == 0
    assert min(counts[1:]) >= len(groups)


@pytest.mark.parametrize("level", [level for level in cpu.levels(cpu.host_features())[:2] if level.runs_here], ids=lambda card: card.name)
def test_no_bit_changes(level: Target, program: Program) -> None:
    whole = plan(program, level)
    groups = layers(whole)
    expected = results(whole, groups, level)
    assert all(np.unique(array).size > 10 for array in expected)
    found = results(whole, [with_prefetch(group, 1000 if place else 1, 1) for place, group in enumerate(groups)], level)
    for wanted, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(other, wanted)


def test_the_tuner_asks_for_them_after_tiles_and_by_more_than_a_tie(program: Program) -> None:
    whole = plan(program, CARDS["tvm:x86-64-vnni"])
    wanted = tiles(whole, layers(whole)[0])[1].attributes["tile"]

    for share, expected in ((0.99, None), (0.9, list(PREFETCHES[-1]))):

        def measured(some: Sequence[Part], share: float = share) -> dict[str, float]:
            found = {}
            for part in some:
                settings = part.groups[0].attributes
                ahead = settings.get("prefetch") == list(PREFETCHES[-1])
                found[part.signature] = (50.0 if settings["tile"] == wanted else 100.0) * (share if ahead else 1.0)
            return found

        best, table = chosen(whole, [], measured)
        first = layers(best)[0]
        assert first.attributes["tile"] == wanted
        assert first.attributes.get("prefetch") == expected
        assert table[-1].alternatives[1].endswith(" prefetch 4+0")


def test_other_kernels_have_no_such_alternatives(program: Program) -> None:
    whole = plan(program, CARDS["tvm:x86-64-vnni"])
    group = layers(whole)[0]
    assert prefetches(whole, replace(group, kernel="conv2d_loops")) == tiles(whole, replace(group, kernel="conv2d_loops")) == []
    assert prefetches(whole, group)[0] is group
    assert "prefetch" not in str(whole)
