"""CUDA without a GPU: what every architecture's artifact holds, and the bits of its kernels with loops in place of threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import tvm_ffi
from conftest import _compare
from fxpress_backends.artifact import load, lower
from fxpress_backends.contract import Runner, Target
from fxpress_backends.tvm import TVM, cuda, nvrtc
from fxpress_backends.tvm.kernels.scalars import lanes_are_apart
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program, capture
from fxpress_ir.errors import BackendError
from several import several
from support import attending_net, exponentials, fxp, moving_net, residual_net
from torch import Tensor, fx
from tvm import tirx
from tvm_cases import S8, S16, U8, Limits, biases, convolution, multipliers, requantized, weights

Load = Callable[[Program, Target, Path], Runner]
SideBySide = Callable[[Sequence[object]], Program]
I8, U8_ = torch.int8, torch.uint8


def product(number: int, inputs: int, outputs: int, rank: int, limits: Limits | None) -> Callable[[Edit, fx.Node], fx.Node]:
    generator = torch.Generator().manual_seed(number)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", weights(generator, outputs, inputs))
        acc = edit.call(fxp.linear.default, x, weight, edit.add_tensor("bias", biases(generator, outputs)))
        return acc if limits is None else requantized(edit, acc, multipliers(generator, outputs, inputs), 16, limits, axis=rank - 1)

    return body


def image(*case: object) -> Callable[[int, Limits | None], Callable[[Edit, fx.Node], fx.Node]]:
    return lambda number, limits: convolution(case, number, limits)


CASES = [
    ((17, 64), I8, product(1, 64, 32, 3, S8), "linear_mma"),
    ((70, 32), U8_, product(2, 32, 48, 3, U8), "linear_mma"),
    ((3, 7, 96), I8, product(3, 96, 10, 4, None), "linear_mma"),
    ((96,), U8_, product(4, 96, 10, 2, S16), "linear_dp4a"),
    ((5, 20), I8, product(5, 20, 33, 3, S8), "linear_dp4a"),
    ((32, 9, 9), U8_, image(32, 48, 1, 0, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))(1, S8), "conv2d_mma"),
    ((64, 9, 9), I8, image(64, 16, 1, 0, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1))(2, U8), "conv2d_mma"),
    ((32, 9, 9), I8, image(32, 32, 1, 0, (3, 3), (2, 1), (1, 1, 1, 1), (2, 2))(3, None), "conv2d_mma"),
    ((3, 9, 9), I8, image(3, 16, 1, 0, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))(4, U8), "conv2d_dp4a"),
    ((32, 8, 8), U8_, image(32, 32, 2, 0, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))(5, S8), "conv2d_dp4a"),
    ((24, 8, 8), I8, image(24, 24, 24, 0, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))(6, S8), "conv2d_loops"),
]


def drawn(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A third lowest, a third highest, a third anything."""
    limits = torch.iinfo(dtype)
    choice = torch.randint(0, 3, shape, generator=generator)
    anything = torch.randint(limits.min, limits.max + 1, shape, generator=generator)
    return torch.where(choice == 0, limits.min, torch.where(choice == 1, limits.max, anything)).to(dtype)


def test_products_give_the_programs_bits(side_by_side: SideBySide, loaded: Load, tmp_path: Path) -> None:
    """Fragments of tensor cores, words of DP4A and lanes of loops, each as PTX and CUDA define them."""
    program, target = side_by_side([(shape, dtype, body) for shape, dtype, body, _ in CASES]), cuda.emulated()
    kernels = {node: group.kernel for group in reversed(plan(program, target).groups) for node in group.nodes}
    operators = [node.name for node in program.graph.nodes if node.target in (fxp.conv2d.default, fxp.linear.default)]
    assert [kernels[name] for name in operators] == [kernel for *_, kernel in CASES]
    runner, generator = loaded(program, target, tmp_path), torch.Generator().manual_seed(0)
    for batch in (1, 3):
        _compare(runner, program, [drawn(generator, (batch, *shape), dtype) for shape, dtype, _, _ in CASES])


@pytest.mark.parametrize("build", [residual_net, moving_net, attending_net], ids=lambda build: build.__name__)
def test_programs_give_their_bits(build: Callable[[], Program], loaded: Load, tmp_path: Path) -> None:
    program, generator = build(), torch.Generator().manual_seed(1)
    runner = loaded(program, cuda.emulated(), tmp_path)
    _compare(runner, program, [torch.randn(value.shape, generator=generator) * 3 for value in program.example(batch=3)])


@pytest.mark.parametrize(("name", "build"), [("sm_75", attending_net), ("sm_80", residual_net), ("sm_90", attending_net)])
def test_an_artifact_is_built_without_a_gpu(name: str, build: Callable[[], Program], tmp_path: Path) -> None:
    artifact = lower(build(), f"tvm:cuda-{name}", tmp_path / "net")
    details = artifact.manifest["details"]
    code = (artifact.folder / details["cubin"]).read_bytes()
    assert code[:5] == b"\x7fELF\x02"
    assert int.from_bytes(code[18:20], "little") == 190  # EM_CUDA
    library = (artifact.folder / details["library"]).read_bytes()
    kernels = {call["kernel"].rpartition("_")[2] for call in details["groups"]}
    assert (b"__dp4a(" in library, b"mma.sync.aligned.m16n8k32" in library) == ("dp4a" in kernels, "mma" in kernels)
    assert details["features"] == ["x86-64", "cuda", name]
    assert "unchecked" in details
    if name == "sm_80":
        again = lower(build(), f"tvm:cuda-{name}", tmp_path / "again")
        assert again.manifest["files"] == artifact.manifest["files"]
    if cuda.device() is None:
        with pytest.raises(BackendError, match=f"^tvm:cuda-{name}: TVM's runtime finds no CUDA device here; copy the folder"):
            load(tmp_path / "net").run(*(torch.zeros(value.shape) for value in build().example(batch=1)))


def test_tensor_cores_from_sm_80_on(side_by_side: SideBySide) -> None:
    program = side_by_side([(shape, dtype, body) for shape, dtype, body, _ in CASES[:1]])
    cards = {card.name: card for card in cuda.cards()}
    kernels = {name: [group.kernel for group in plan(program, cards[f"tvm:cuda-{name}"]).groups][1] for name in ("sm_75", "sm_80", "sm_90")}
    assert kernels == {"sm_75": "linear_dp4a", "sm_80": "linear_mma", "sm_90": "linear_mma"}


def test_rows_of_symbolic_length_are_refused(tmp_path: Path) -> None:

    def body(edit: Edit, x: fx.Node) -> list[fx.Node]:
        return [edit.call(fxp.softmax.default, x, edit.add_tensor("table", exponentials(1 << 14).int()), 8)]

    program = several([(("batch", 4, "seq"), torch.int8)], body, {"seq": 40})
    with pytest.raises(BackendError, match=r"^target 'tvm:cuda-emulated', .*: softmax works on rows of symbolic length, .*; capture"):
        TVM.lower(program, cuda.emulated(), tmp_path)


def test_floats_are_refused() -> None:
    program, target = capture(torch.nn.ReLU(), (torch.zeros(2, 3),)), cuda.cards()[0]
    (refusal,) = TVM.legalize(program, target)
    assert refusal.reason == "its stage is float"


@pytest.mark.parametrize(
    ("name", "found", "runs"),
    [
        ("sm_90", (9, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_89", (8, 6), False),
        ("sm_80", (9, 0), False),
        ("sm_120", (12, 0), True),
        ("sm_75", None, False),
    ],
)
def test_which_gpu_runs_which_code(name: str, found: tuple[int, int] | None, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device", lambda: found)
    assert {card.name: card.runs_here for card in cuda.cards()}[f"tvm:cuda-{name}"] is runs
    if runs:
        cuda.check_device(("x86-64", "cuda", name), "here")
    else:
        message = "no CUDA device" if found is None else f"its code is for {name}, this GPU is sm_{found[0]}{found[1]}; lower to"
        with pytest.raises(BackendError, match=message):
            cuda.check_device(("x86-64", "cuda", name), "here")


def test_what_nvrtc_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"^sm_90: NVRTC refuses: .*error: .*undefined; NVRTC 13 takes") as caught:
        nvrtc.cubin('extern "C" __global__ void f() { nothing(); }', "sm_90")
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match=r"^sm_30: NVRTC refuses: .+"):
        nvrtc.cubin('extern "C" __global__ void f() {}', "sm_30")
    nvrtc._library.cache_clear()
    monkeypatch.setattr(nvrtc, "_LIBRARY", "libnvrtc.so.0")
    with pytest.raises(BackendError, match=r"no NVRTC \(nvidia-cuda-nvrtc\) to compile CUDA with; pip install 'fxpress\[cuda\]'"):
        nvrtc.cubin("", "sm_90")
    nvrtc._library.cache_clear()


def test_machine_code_goes_to_its_source_alone(tmp_path: Path) -> None:
    (tmp_path / "kernels.cubin").write_bytes(b"machine code")
    before = tvm_ffi.get_global_func("tvm_callback_cuda_compile")
    try:
        cuda.offer(tmp_path / "kernels.cubin", hashlib.sha256(b"source").hexdigest())
        assert tvm_ffi.get_global_func("tvm_callback_cuda_compile")("source") == b"machine code"
    finally:
        cuda._CODES.clear()
        tvm_ffi.register_global_func("tvm_callback_cuda_compile", before, override=True)
    with pytest.raises(BackendError, match=r"absent\.cubin cannot be read: No such file .*lower the program again"):
        cuda.offer(tmp_path / "absent.cubin", "")


def test_lanes_that_meet_are_no_threads() -> None:
    """What vectors write and scalars read is looped over by one thread."""
    kept, out = tirx.decl_buffer([16], "int32"), tirx.decl_buffer([16], "int32")
    every = tirx.Ramp(0, 1, 16)
    wide = tirx.BufferStore(kept, tirx.Broadcast(tirx.const(1, "int32"), 16), [every])
    apart = tirx.SeqStmt([tirx.AllocBuffer(kept), wide, tirx.BufferStore(out, tirx.BufferLoad(kept, [every]), [every])])
    meeting = tirx.SeqStmt([tirx.AllocBuffer(kept), wide, tirx.BufferStore(out, tirx.BufferLoad(kept, [3]), [0])])
    shifted = tirx.SeqStmt([tirx.AllocBuffer(kept), wide, tirx.BufferStore(out, tirx.BufferLoad(kept, [tirx.Ramp(1, 1, 16)]), [every])])
    assert [lanes_are_apart(body) for body in (apart, meeting, shifted)] == [True, False, False]
