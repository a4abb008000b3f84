"""group ==> TIR function: the kernels by name, each a generator of loops over the operands of its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..cuda import EMULATED, FAMILY
from ..physical import Group, Plan
from ..sizes import value
from .attention import attention_amx, attention_avx2, attention_loops, attention_sdot, attention_threads, attention_usdot, attention_vnni
from .columns import Columns
from .conv2d_amx import conv2d_amx
from .conv2d_depthwise import conv2d_depthwise, conv2d_depthwise_avx2, conv2d_depthwise_sdot
from .conv2d_loops import conv2d_loops
from .conv2d_vnni import conv2d_avx2, conv2d_mmla, conv2d_sdot, conv2d_smull, conv2d_vnni
from .dp4a import conv2d_dp4a, linear_dp4a
from .elementwise import add, multiply, requantize
from .gather import concat, embedding, gather
from .linear_amx import linear_amx
from .linear_loops import linear_loops
from .linear_vnni import linear_avx2, linear_mmla, linear_nibbles, linear_pairs, linear_sdot, linear_smull, linear_vnni
from .logic import compare, logical_and, logical_not, logical_or
from .lut import lut, lut16, lut_permute
from .matmul import matmul_avx2, matmul_loops, matmul_sdot, matmul_usdot, matmul_vnni
from .mma import conv2d_mma, linear_mma
from .movement import convert, dequantize, quantize, rearrange
from .normalize import affine, normalize
from .operand import Call, Operand
from .pool2d import max_pool2d, sum_pool2d
from .positions import positions
from .rotary import rotary
from .softmax import softmax
from .threads import on_threads

_KERNELS: tuple[Callable[[Call], None], ...] = (
    add, affine, attention_amx, attention_avx2, attention_loops, attention_sdot, attention_threads, attention_usdot, attention_vnni,
    compare, concat, conv2d_amx, conv2d_avx2, conv2d_depthwise, conv2d_depthwise_avx2, conv2d_depthwise_sdot, conv2d_dp4a,
    conv2d_loops, conv2d_mma, conv2d_mmla, conv2d_sdot, conv2d_smull, conv2d_vnni, convert, dequantize, embedding, gather, linear_amx,
    linear_avx2, linear_dp4a, linear_loops, linear_mma, linear_mmla, linear_nibbles, linear_pairs, linear_sdot, linear_smull,
    linear_vnni, logical_and, logical_not, logical_or, lut, lut16, lut_permute, matmul_avx2, matmul_loops, matmul_sdot, matmul_usdot,
    matmul_vnni, max_pool2d, multiply, normalize, positions, quantize, rearrange, requantize, rotary, softmax, sum_pool2d,
)  # fmt: skip
KERNELS = {kernel.__name__: kernel for kernel in _KERNELS}


def prim_func(plan: Plan, group: Group) -> Any:
    """The TIR function of a group: its inputs, its constants, the dimensions that stay symbolic (int64), then its output."""
    buffers = [plan.buffers[name] for name in (*group.inputs, group.output)]

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(group.kernel)
        T.func_attr({"tirx.noalias": True})
        given = [T.arg(f"x{number}", T.handle()) for number in range(len(group.inputs))]
        arrays = [plan.constants[name] for name in group.constants]
        constants = tuple(T.match_buffer(T.arg(f"c{i}", T.handle()), array.shape, str(array.dtype)) for i, array in enumerate(arrays))
        symbols = {name: T.arg(f"n{i}", tirx.Var(f"n{i}", "int64")) for i, name in enumerate(plan.symbols(group))}
        handles = [*given, T.arg("y", T.handle())]
        shapes = [[value(size, symbols) for size in buffer.sizes] for buffer in buffers]
        memories = [T.match_buffer(handle, shape, b.dtype) for handle, shape, b in zip(handles, shapes, buffers, strict=True)]
        *inputs, output = (Operand(buffer, memory, symbols) for buffer, memory in zip(buffers, memories, strict=True))
        for number, run in enumerate(group.attributes.get("spans", ())):
            inputs[number] = inputs[number] if run is None else Columns.of(inputs[number], *run)
        with T.sblock("root"):
            KERNELS[group.kernel](Call(tuple(inputs), constants, output, group.attributes, symbols))
    function = builder.get()
    if not plan.target.startswith(FAMILY):
        return function
    return on_threads(function, f"target {plan.target!r}, {group.nodes[0]}", emulated=plan.target == FAMILY + EMULATED)
