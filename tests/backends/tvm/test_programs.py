"""Whole programs: the same bits as in PyTorch on both targets, at any batch, from one build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Runner, Target
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.cpu import native
from fxpress_ir import Edit, Program
from fxpress_ir.errors import BackendError
from support import aten, built, fxp, residual_net
from torch import fx

Load = Callable[[Program, Target, Path], Runner]


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch)) * 3


def test_residual_net_at_batches_1_and_7(same_bits: Callable[..., None]) -> None:
    program = residual_net()
    same_bits(program, [images(1)], [images(7)])


def test_residual_net_with_odd_channels(same_bits: Callable[..., None]) -> None:
    same_bits(residual_net(seed=1, channels=5, size=8, classes=3), [images(2)], [images(31)])


def test_fixed_batch(fixed: Callable[..., Program], same_bits: Callable[..., None]) -> None:
    """No symbolic dimension at all, and the batch moved to the end and back."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.02, -128, 127, torch.int8)
        turned = edit.call(aten.permute.default, q, [2, 1, 0])
        doubled = edit.call(fxp.add.default, turned, turned, 3, 2, 2, -128, 127, torch.int8)
        return edit.call(fxp.dequantize.default, edit.call(aten.permute.default, doubled, [2, 1, 0]), 0.01)

    program = fixed(torch.zeros(3, 5, 4), body)
    same_bits(program, [torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))])


def test_outputs_that_pass_through(same_bits: Callable[..., None]) -> None:
    """An input returned as it is, and one value returned twice."""
    program = built((1, 6), lambda edit, x: edit.call(fxp.add.default, x, x, 1, 2, 1, -128, 127, torch.int8), dtype=torch.int8)
    edit = program.edit()
    returned = edit.here(program.outputs()[0])
    edit.graph.output_node().args = ((edit.here(program.placeholders()[0]), returned, returned),)
    same_bits(edit.finish(), [torch.arange(-9, 9, dtype=torch.int8).reshape(3, 6)])


def test_same_program_gives_the_same_bytes(target: Target, tmp_path: Path) -> None:
    libraries = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        details = TVM.lower(residual_net(), target, tmp_path / name)
        assert [file.name for file in (tmp_path / name).iterdir()] == [details["library"]]
        libraries.append((tmp_path / name / details["library"]).read_bytes())
    assert libraries[0] == libraries[1]


def test_a_replaced_artifact_is_not_the_old_one(targets: Mapping[str, Target], loaded: Load, tmp_path: Path) -> None:
    """Both stand in the same folder of the same process, the first one still open."""
    runners = [loaded(program, targets["tvm:native"], tmp_path) for program in (residual_net(seed=3), residual_net(seed=4))]
    for runner, seed in zip(runners, (3, 4), strict=True):
        np.testing.assert_array_equal(runner.run([images(2).numpy()])[0], residual_net(seed=seed).run(images(2))[0].numpy())


def test_threads_and_strides_change_no_bit(targets: Mapping[str, Target], tmp_path: Path) -> None:
    from fxpress_backends.tvm.run import logical_cpus  # with it comes TVM

    program, target = residual_net(), targets["tvm:native"]
    manifest = {"target": target.name, "details": TVM.lower(program, target, tmp_path)}
    turned = np.ascontiguousarray(images(5).numpy().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for threads in (1, logical_cpus(), 1):
        result = TVM.load(tmp_path, manifest, {"threads": threads}).run([turned])
        np.testing.assert_array_equal(result[0], program.run(images(5))[0].numpy())


@pytest.mark.parametrize(
    ("options", "features", "message"),
    [
        ({"providers": ["CPU"]}, [], "unknown option 'providers'"),
        ({"threads": 0}, [], "threads is 0"),
        ({"threads": "2"}, [], "threads is '2'"),
        ({"threads": 4096}, [], "TVM's pool has"),
        ({}, ["avx99"], "this CPU has no avx99; take tvm:x86-64"),
        ({}, [], "TVM cannot load missing.so"),
    ],
)
def test_what_cannot_be_opened_says_why(options: dict[str, object], features: list[str], message: str, tmp_path: Path) -> None:
    manifest = {"target": "tvm:native", "details": {"library": "missing.so", "features": features}}
    with pytest.raises(BackendError) as caught:
        TVM.load(tmp_path, manifest, options)
    assert message in str(caught.value)


def test_without_a_compiler_nothing_is_written(monkeypatch: pytest.MonkeyPatch, targets: Mapping[str, Target], tmp_path: Path) -> None:
    monkeypatch.setattr("tvm.support.cc.get_cc", lambda: None)
    with pytest.raises(BackendError, match="no C compiler"):
        TVM.lower(residual_net(), targets["tvm:native"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_kind_of_machine(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="this machine is no s390x; take tvm:native"):
        TVM.lower(residual_net(), native(("s390x",)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_refused_program_is_not_lowered(targets: Mapping[str, Target], tmp_path: Path) -> None:
    def negative(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.sum_pool2d.default, x, [2, 2], [1, 1], [-1, 0, 0, 0])

    with pytest.raises(BackendError, match=r"tvm:x86-64, sum_pool2d_default: padding \[-1, 0, 0, 0\] is negative"):
        TVM.lower(built((1, 3, 5, 5), negative, dtype=torch.int8), targets["tvm:x86-64"], tmp_path)
    assert not list(tmp_path.iterdir())
