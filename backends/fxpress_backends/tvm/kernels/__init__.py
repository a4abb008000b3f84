"""group ==> TIR function: the kernels by name, each a generator of loops over the operands of its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..physical import Buffer, Group, Lead, Plan
from .conv2d_depthwise import conv2d_depthwise
from .conv2d_loops import conv2d_loops
from .conv2d_vnni import conv2d_vnni
from .elementwise import add, multiply, requantize
from .gather import concat, gather
from .linear_loops import linear_loops
from .linear_vnni import linear_vnni
from .lut import lut, lut_permute
from .movement import convert, dequantize, quantize, rearrange
from .operand import Call, Operand
from .pool2d import max_pool2d, sum_pool2d

_KERNELS: tuple[Callable[[Call], None], ...] = (
    add, concat, conv2d_depthwise, conv2d_loops, conv2d_vnni, convert, dequantize, gather, linear_loops, linear_vnni, lut, lut_permute,
    max_pool2d, multiply, quantize, rearrange, requantize, sum_pool2d,
)  # fmt: skip
KERNELS = {kernel.__name__: kernel for kernel in _KERNELS}


def prim_func(plan: Plan, group: Group) -> Any:
    """The TIR function of a group: its inputs, its constants, then its output; symbolic sizes come from the operands' shapes."""
    sizes: dict[Lead, Any] = {}

    def operand(buffer: Buffer, role: str) -> Operand:
        lead = buffer.lead
        size = sizes.setdefault(lead, lead.factor if lead.symbol is None else tirx.Var(f"n{len(sizes)}", "int64"))
        shape = (size, *buffer.middle, buffer.channels)
        return Operand(buffer, T.match_buffer(T.arg(role, T.handle()), shape, buffer.dtype), size)

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(group.kernel)
        T.func_attr({"tirx.noalias": True})
        inputs = tuple(operand(plan.buffers[name], f"x{number}") for number, name in enumerate(group.inputs))
        arrays = [plan.constants[name] for name in group.constants]
        constants = tuple(T.match_buffer(T.arg(f"c{i}", T.handle()), array.shape, str(array.dtype)) for i, array in enumerate(arrays))
        output = operand(plan.buffers[group.output], "y")
        with T.sblock("root"):
            KERNELS[group.kernel](Call(inputs, constants, output, group.attributes))
    return builder.get()
