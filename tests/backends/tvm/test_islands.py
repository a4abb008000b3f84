"""Mixed programs: integers as ever, islands by TVM's importer called between them, all in one library."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from fxpress_backends.artifact import lower
from fxpress_backends.contract import Runner, Target
from fxpress_backends.reference import REFERENCE
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.islands import Island, steps
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program, verify
from fxpress_ir.errors import BackendError
from mixed import Body, hardly_differs, integer_conv, mixed, quantized, real
from support import aten, fxp
from torch import fx

Load = Callable[[Program, Target, Path], Runner]


def perceptron(edit: Edit, x: fx.Node) -> fx.Node:
    """Two linear layers and a softmax between quantised convolutions, their views by the batch of the input."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(*shape, generator=generator) / 5 for shape in ((16, 36), (36, 16)))
    y = real(edit, integer_conv(edit, quantized(edit, x), "one"))
    batch = edit.call(aten.sym_size.int, x, 0)
    hidden = edit.call(aten.linear.default, edit.call(aten.view.default, y, [batch, 4, 36]), edit.add_tensor("layers.first", first))
    scores = edit.call(aten.linear.default, edit.call(aten.gelu.default, hidden), edit.add_tensor("layers.second", second))
    shares = edit.call(aten.mul.Tensor, edit.call(aten.softmax.int, scores, -1), 9.0)
    return real(edit, integer_conv(edit, quantized(edit, edit.call(aten.view.default, shares, [batch, 4, 6, 6])), "second"))


def at_the_end(edit: Edit, x: fx.Node) -> fx.Node:
    """A result of one dimension that is no float."""
    y = real(edit, integer_conv(edit, quantized(edit, x), "one"))
    return edit.call(aten.argmax.default, edit.call(aten.mean.dim, edit.call(aten.sigmoid.default, y), [2, 3]), 1)


def around(edit: Edit, x: fx.Node) -> fx.Node:
    """The first island reads the program's input, the second reads the first directly and through integers."""
    first = edit.call(aten.sin.default, x)
    through = real(edit, integer_conv(edit, quantized(edit, edit.call(aten.contiguous.default, first)), "through"))
    return edit.call(aten.mul.Tensor, first, edit.call(aten.softmax.int, through, -1))


def beside(edit: Edit, x: fx.Node) -> fx.Node:
    """Two islands that need each other's results nowhere, joined by an addition that runs in a convolution's registers."""
    stem = integer_conv(edit, quantized(edit, x), "one")
    left = quantized(edit, edit.call(aten.sin.default, real(edit, stem)))
    right = quantized(edit, edit.call(aten.cos.default, real(edit, integer_conv(edit, stem, "mid"))))
    joined = edit.call(fxp.add.default, left, integer_conv(edit, right, "third"), 1, 1, 1, -128, 127, torch.int8)
    return real(edit, integer_conv(edit, joined, "fourth"))


def halves(edit: Edit, x: fx.Node) -> fx.Node:
    """Operators that give several values, and an island that gives back what it was given."""
    split = edit.call(aten.split.Tensor, real(edit, integer_conv(edit, quantized(edit, x), "one")), 2, 1)
    first, second = (edit.call(operator.getitem, split, index) for index in (0, 1))
    y = real(edit, integer_conv(edit, quantized(edit, edit.call(aten.cat.default, [second, first], 1)), "second"))
    same = edit.call(aten.clone.default, y)
    return edit.call(aten.mul.Tensor, real(edit, integer_conv(edit, quantized(edit, same), "third")), same)


def numbers(edit: Edit, x: fx.Node) -> fx.Node:
    """An island reads integers as they are."""
    return edit.call(aten.argmax.default, integer_conv(edit, quantized(edit, x), "one"), 1)


CASES: tuple[tuple[Body, str], ...] = (
    (perceptron, "tvm:x86-64"),
    (perceptron, "tvm:native"),
    (at_the_end, "tvm:native"),
    (around, "tvm:native"),
    (beside, "tvm:native"),
    (halves, "tvm:native"),
    (numbers, "tvm:native"),
)


@pytest.mark.parametrize(("body", "name"), CASES, ids=[f"{body.__name__}-{name}" for body, name in CASES])
def test_islands(body: Body, name: str, targets: Mapping[str, Target], loaded: Load, tmp_path: Path) -> None:
    program = mixed(body)
    runner = loaded(program, targets[name], tmp_path)
    for batch in (1, 5):
        x = torch.randn(batch, 4, 6, 6, generator=torch.Generator().manual_seed(batch)) * 3
        hardly_differs(runner.run([x.numpy()])[0], program.run(x)[0].numpy())


def test_ids_enter_an_island(targets: Mapping[str, Target], loaded: Load, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        rows = edit.call(aten.embedding.default, edit.add_tensor("rows", torch.randn(9, 8, generator=generator)), x)
        weight = edit.add_tensor("weight", torch.randint(-127, 128, (6, 8), generator=generator, dtype=torch.int8))
        acc = edit.call(fxp.linear.default, quantized(edit, rows), weight, None)
        b = edit.add_tensor("b", torch.tensor([300], dtype=torch.int32))
        return real(edit, edit.call(fxp.requantize.default, acc, b, 16, -128, 127, -1, torch.int8))

    program = mixed(body, (5,), dtype=torch.int64)
    ids = torch.randint(0, 9, (3, 5), generator=generator)
    (result,) = loaded(program, targets["tvm:native"], tmp_path).run([ids.numpy()])
    np.testing.assert_array_equal(result, program.run(ids)[0].numpy())


def test_an_artifact_of_one_library_and_the_same_bytes(tmp_path: Path) -> None:
    program = mixed(around)
    artifacts = [lower(program, "tvm:x86-64", tmp_path / name) for name in ("first", "second")]
    details = artifacts[0].manifest["details"]
    assert [group["kernel"] for group in details["groups"]].count("island") == 2
    assert [name for name in artifacts[0].manifest["files"] if name.endswith(".so")] == [details["library"]]
    assert artifacts[0].manifest["files"] == artifacts[1].manifest["files"]


def islands(program: Program) -> list[list[str]]:
    return [[node.name for node in step.nodes] for step in steps(program) if isinstance(step, Island)]


def test_islands_merge_where_no_integer_stands_between() -> None:
    assert islands(mixed(beside)) == [["sin_default", "cos_default"]]
    assert islands(mixed(around)) == [["sin_default", "contiguous_default"], ["softmax_int", "mul_tensor"]]


@pytest.mark.parametrize("body", [perceptron, around, halves])
def test_no_step_reads_what_comes_later(body: Body) -> None:
    known: set[fx.Node] = set()
    for step in steps(mixed(body)):
        nodes = step.nodes if isinstance(step, Island) else (step,)
        read = step.part.inputs if isinstance(step, Island) else step.all_input_nodes
        assert known.issuperset(read)
        known.update(nodes)


def test_the_plan_of_integers_around_islands(targets: Mapping[str, Target]) -> None:
    lines = [line.strip() for line in str(plan(mixed(beside), targets["tvm:x86-64"])).splitlines()]
    assert "island1 = island(dequantize_default.plain, dequantize_default_1.plain)" in lines
    assert "cos_default.plain = result(island1) index=1" in lines
    assert "quantize_default_2 = quantize(cos_default.plain) scale=0.05 qmin=-128 qmax=127" in lines


def lacking(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.special_bessel_j0.default, real(edit, quantized(edit, x)))


def half(edit: Edit, x: fx.Node) -> fx.Node:
    y = edit.call(aten.sin.default, edit.call(aten.to.dtype, real(edit, quantized(edit, x)), torch.float16))
    return edit.call(aten.to.dtype, y, torch.float32)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lacking, "special_bessel_j0_default: TVM's importer has no aten.special_bessel_j0.default"),
        (half, "to_dtype: type torch.float16 in a float operator"),
    ],
)
def test_what_islands_cannot_compute(body: Body, message: str, targets: Mapping[str, Target], tmp_path: Path) -> None:
    program = mixed(body)
    verify(program)
    refusal = TVM.legalize(program, targets["tvm:x86-64"])[0]
    assert f"{refusal.node}: {refusal.reason}" == message
    with pytest.raises(BackendError, match=message):
        TVM.lower(program, targets["tvm:x86-64"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_reference_computes_integers_alone(tmp_path: Path) -> None:
    program = mixed(numbers)
    (refusal,) = REFERENCE.legalize(program, REFERENCE.targets()[0])
    assert refusal.reason == "its stage is mixed: the reference computes integers alone"
    assert "integer_only" in refusal.way_on
    with pytest.raises(BackendError, match=r"takes integer programs, this one is mixed; onnx:int, onnx:qlinear, tvm:.* take it"):
        lower(program, "reference", tmp_path / "net")
