"""The physical plan: layout, halo, storage, packing, fusion and choice of kernel, read as text and as data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.kernels import KERNELS
from fxpress_backends.tvm.physical import Group, Plan
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.rules import RULES
from fxpress_ir import Edit, Program
from fxpress_ir.ops import INTEGER_OPERATORS
from support import aten, built, conv, fxp, multipliers, residual_net
from torch import fx

GENERIC = cpu.x86_64()
VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI))


def small_net() -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.25, -128, 127, torch.int8)
        weight = torch.ones(20, 3, 3, 3, dtype=torch.int8)
        hidden = conv(edit, q, weight, None, multipliers([500]), 16, relu=False)
        pooled = edit.call(fxp.max_pool2d.default, hidden, [4, 4], [4, 4], [0] * 4, [1, 1])
        flat = edit.call(aten.flatten.using_ints, pooled, 1)
        return edit.call(fxp.dequantize.default, flat, 0.5)

    return built((1, 3, 4, 4), body)


GENERIC_TEXT = """\
plan for tvm:x86-64
  x.plain: float32[batch, 3, 4, 4]
  quantize_default: int8[batch, 6, 6, 4], NHWC of [batch, 3, 4, 4], halo 1 1 1 1
  requantize_default: int8[batch, 4, 4, 32], NHWC of [batch, 20, 4, 4]
  max_pool2d_default: int8[batch, 32], NHWC of [batch, 20, 1, 1]
  flatten_using_ints: int8[batch, 32]
  dequantize_default.plain: float32[batch, 20]
  %conv2d_default.weight: int8[2, 27, 16]
  %conv2d_default.bias: int32[32]
  %conv2d_default.requantization: int32[3, 32]
  quantize_default = quantize(x.plain) scale=0.25 qmin=-128 qmax=127
  requantize_default = conv2d_loops(quantize_default, conv2d_default.weight, conv2d_default.bias, conv2d_default.requantization) \
shift=16 qmin=-128 qmax=127 clip=False kernel=3x3 stride=1x1 padding=1x1x1x1 dilation=1x1 group_inputs=3 group_outputs=20 \
columns=4 ; the target has no AVX512-VNNI
  max_pool2d_default = max_pool2d(requantize_default) kernel=4x4 stride=4x4 padding=0x0x0x0 dilation=1x1
  flatten_using_ints = view(max_pool2d_default)
  dequantize_default.plain = dequantize(flatten_using_ints) scale=0.5
  x.plain -> dequantize_default.plain"""

VNNI_LINES = (
    "  quantize_default: uint8[batch, 6, 6, 4], NHWC of [batch, 3, 4, 4], halo 1 1 1 1, zero point 128",
    "  requantize_default: uint8[batch, 4, 4, 32], NHWC of [batch, 20, 4, 4], zero point 128",
    "  %conv2d_default.weight: int8[2, 9, 64]",
    "  requantize_default = conv2d_vnni(quantize_default, conv2d_default.weight, conv2d_default.bias, conv2d_default.requantization) "
    "shift=16 qmin=-128 qmax=127 clip=False floats=True kernel=3x3 stride=1x1 padding=1x1x1x1 dilation=1x1 tile=2x4x2",
)


def test_plan_as_text() -> None:
    assert str(plan(small_net(), GENERIC)) == GENERIC_TEXT
    text = str(plan(small_net(), VNNI)).splitlines()
    assert [line for line in VNNI_LINES if line not in text] == []


def test_s8_storage_moves_into_the_bias() -> None:
    bias = plan(small_net(), VNNI).constants["conv2d_default.bias"]
    np.testing.assert_array_equal(bias, [-128 * 27] * 20 + [0] * 12)
    assert not plan(small_net(), GENERIC).constants["conv2d_default.bias"].any()


@pytest.mark.parametrize("target", [GENERIC, VNNI], ids=lambda target: target.storage)
def test_plan_as_data(target: Target) -> None:
    made = plan(residual_net(), target)
    data = json.loads(json.dumps(made.data()))
    assert [group["kernel"] for group in data["groups"]] == [group.kernel for group in made.groups]
    covered = [name for group in made.groups for name in group.nodes]
    assert len(covered) == len(set(covered)) == sum(node.op == "call_function" for node in residual_net().graph.nodes)
    assert {group.kernel for group in made.groups} <= KERNELS.keys() | {"view"}


def test_every_operator_has_a_rule() -> None:
    assert RULES.keys() == {row.name for row in INTEGER_OPERATORS.values()}


def group_of(program: Program, target: Target, node: str) -> tuple[Plan, Group]:
    made = plan(program, target)
    return made, next(group for group in made.groups if node in group.nodes)


GROUPS: tuple[tuple[int, int, int, str, dict[str, int], str], ...] = (
    # inputs, outputs, groups; kernel, inputs and outputs of a merged group, why
    (34, 34, 1, "conv2d_vnni", {}, ""),
    (34, 34, 2, "conv2d_vnni", {}, ""),
    (34, 34, 34, "conv2d_depthwise", {}, ""),
    (64, 128, 2, "conv2d_vnni", {"group_inputs": 32, "group_outputs": 64}, ""),
    (64, 64, 16, "conv2d_vnni", {"group_inputs": 16, "group_outputs": 16}, ""),
    (40, 80, 40, "conv2d_vnni", {"group_inputs": 8, "group_outputs": 16}, ""),
    (34, 17, 17, "conv2d_loops", {"group_inputs": 2, "group_outputs": 1}, "17 groups of 2 inputs and 1 outputs"),
)


@pytest.mark.parametrize(("inputs", "outputs", "groups", "kernel", "merged", "why"), GROUPS)
def test_groups_are_merged_to_whole_vectors(inputs: int, outputs: int, groups: int, kernel: str, merged: dict[str, int], why: str) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", torch.ones(outputs, inputs // groups, 1, 1, dtype=torch.int8))
        return edit.call(fxp.conv2d.default, x, weight, None, [1, 1], [0] * 4, [1, 1], groups)

    program = built((1, inputs, 3, 3), body, dtype=torch.uint8)
    _, group = group_of(program, VNNI, "conv2d_default")
    assert (group.kernel, group.why) == (kernel, why)
    assert {key: value for key, value in group.attributes.items() if key.startswith("group_")} == merged
    _, group = group_of(program, GENERIC, "conv2d_default")
    assert (group.kernel, group.why) == ("conv2d_loops", "the target has no AVX512-VNNI")


@pytest.mark.parametrize(
    ("shape", "rows", "kernel", "why"),
    [
        ((16, 4, 4), 1, "lut_permute", ""),
        ((16, 4, 3), 1, "lut", "48 bytes in a row"),
        ((16, 4, 4), 16, "lut", "a table for each of 16"),
    ],
)
def test_tables_of_bytes(shape: tuple[int, ...], rows: int, kernel: str, why: str) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        table = torch.arange(256, dtype=torch.uint8).repeat(rows, 1)
        image = edit.call(fxp.max_pool2d.default, x, [1, 1], [1, 1], [0] * 4, [1, 1])
        return edit.call(fxp.lut.default, image, edit.add_tensor("table", table), 1)

    program = built((1, *shape), body, dtype=torch.int8)
    made, group = group_of(program, cpu.native((*VNNI.features, cpu.VBMI)), "lut_default")
    assert (group.kernel, group.why) == (kernel, why)
    np.testing.assert_array_equal(made.constants["lut_default.table"][0], np.arange(256))
    made, group = group_of(program, GENERIC, "lut_default")
    assert group.kernel == "lut"
    np.testing.assert_array_equal(made.constants["lut_default.table"][0], np.roll(np.arange(256), 128))


def test_an_accumulator_with_two_readers_is_not_fused() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.sum_pool2d.default, x, [2, 2], [1, 1], [0] * 4)
        b = edit.add_tensor("b", multipliers([1]))
        twice = [edit.call(fxp.requantize.default, acc, b, c, -128, 127, 1, torch.int8) for c in (2, 3)]
        return edit.call(fxp.add.default, *twice, 1, 1, 1, -128, 127, torch.int8)

    made, group = group_of(built((1, 3, 4, 4), body, dtype=torch.int8), GENERIC, "sum_pool2d_default")
    assert group.nodes == ("sum_pool2d_default",)
    assert made.buffers[group.output].dtype == "int32"


@pytest.mark.parametrize(("weight", "clip"), [(1, False), (127, True)])
def test_the_pre_clip_stays_only_where_a_product_could_overflow(weight: int, clip: bool) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weights = torch.full((4, 90, 1, 1), weight, dtype=torch.int8)
        return conv(edit, x, weights, None, multipliers([32767]), 15, relu=True, padding=0)

    _, group = group_of(built((1, 90, 2, 2), body, dtype=torch.uint8), GENERIC, "requantize_default")
    assert group.attributes["clip"] is clip


CPUS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("aarch64", "fp asimd", ("aarch64",)),
    ("x86_64", "", ("x86-64",)),
    ("AMD64", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3", ("x86-64", "x86-64-v2")),
    ("x86_64", "avx512_vnni avx512f avx2", ("x86-64",)),
)


@pytest.mark.parametrize(("machine", "flags", "features"), CPUS)
def test_levels_of_cpus(machine: str, flags: str, features: tuple[str, ...]) -> None:
    assert cpu.features_of(machine, frozenset(flags.split())) == features


def test_cards_name_what_the_compiler_may_use() -> None:
    every = frozenset(" ".join(cpu.LEVELS.values()).split())

    def card(flags: frozenset[str]) -> Target:
        return cpu.native(cpu.features_of("x86_64", flags))

    vectors = {"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["+avx512vnni", "+avx512vbmi"]}
    assert cpu.llvm_target(card(every)) == {**vectors, "mattr": [*vectors["mattr"], "+amx-int8"]}
    assert cpu.llvm_target(card(every - {"amx_int8"})) == vectors
    assert cpu.llvm_target(card(every - {"avx512vbmi"})) == {"kind": "llvm", "mcpu": "x86-64-v4", "mattr": ["+avx512vnni"]}
    assert cpu.llvm_target(card(every - {"avx512_vnni"})) == {"kind": "llvm", "mcpu": "x86-64-v4"}
    assert card(every).storage == "u8+128"
    assert card(every - {"avx512_vnni"}).storage == GENERIC.storage == "s8"
    assert cpu.llvm_target(GENERIC) == {"kind": "llvm", "mcpu": "x86-64"}
    assert cpu.llvm_target(cpu.native(("s390x",))) == {"kind": "llvm"}
