"""Rows of booleans ==> how many are true up to each, moved and bounded, in the result's own type."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from .operand import Call, Expr, over


def positions(call: Call) -> None:
    (source,), output, settings = call.inputs, call.output, call.attributes

    def row(outer: list[Expr]) -> None:
        total = T.alloc_buffer((1,), "int32")
        T.buffer_store(total, T.int32(0), [0])
        with T.serial(source.logical_channels) as channel:
            shown = T.bind(T.Cast("int32", source.load(outer, channel)))
            T.buffer_store(total, total[0] + shown, [0])
            found = T.max(total[0] + settings["offset"], T.int32(settings["least"]))
            if settings["hidden"] is not None:
                found = T.Select(shown > 0, found, T.int32(settings["hidden"]))
            output.store(T.Cast(output.spec.dtype, found), outer, channel)

    over(output, row)
