"""linear as loops over 16 output channels at a time, on any CPU."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .epilogue import finish, requantization
from .operand import Call, Expr, over

_ALL = T.Ramp(0, 1, LANES)


def linear_loops(call: Call) -> None:
    (source,), output = call.inputs, call.output
    weight, bias = call.constants[:2]

    def row(outer: list[Expr]) -> None:
        with T.serial(output.spec.channels // LANES) as block:
            sums = T.alloc_buffer((LANES,), "int32")
            T.buffer_store(sums, bias[T.Ramp(block * LANES, 1, LANES)], [_ALL])
            with T.serial(source.spec.logical_channels) as depth:
                x = T.Broadcast(T.Cast("int32", source.load(outer, depth)), LANES)
                w = T.Cast(f"int32x{LANES}", weight[block, depth, _ALL])
                T.buffer_store(sums, sums[_ALL] + x * w, [_ALL])
            finish(call, sums[_ALL], requantization(call, block * LANES), outer, block * LANES)

    over(output, row)
