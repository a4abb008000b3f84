"""conv2d as loops over 16 output channels at a time: any stride, dilation and groups, on any CPU."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .epilogue import finish, requantization
from .operand import Call, Expr, Operand, fill_halo, lanes

_ALL = T.Ramp(0, 1, LANES)


def conv2d_loops(call: Call) -> None:
    """Padding is read from the input's halo; the zero point of the input's storage is folded into the bias.

    Tasks are output rows; ``columns`` pixels of a row share the weights, the last ones of a row moved back inside it.
    """
    source, output, settings = call.inputs[0], call.output, call.attributes
    weight, bias = call.constants[:2]
    kernel_height, kernel_width = settings["kernel"]
    (down, right), (above, before, _, _) = settings["stride"], settings["padding"]
    dilation_down, dilation_right = settings["dilation"]
    inputs, columns = settings["group_inputs"], settings["columns"]
    height, width = output.spec.pixels

    fill_halo(output)
    with T.parallel(output.lead * height) as task:
        image, row = task // height, task % height
        with T.serial(-(-width // columns)) as step, T.serial(output.spec.channels // LANES) as block:
            first, channel = T.bind(T.min(step * columns, width - columns)), T.bind(block * LANES)
            sums = [T.alloc_buffer((LANES,), "int32") for _ in range(columns)]
            for pixel in sums:
                T.buffer_store(pixel, bias[T.Ramp(channel, 1, LANES)], [_ALL])
            with T.serial(kernel_height) as tap_row, T.serial(kernel_width) as tap_column, T.serial(inputs) as depth:
                w = T.bind(T.Cast(f"int32x{LANES}", weight[block, (tap_row * kernel_width + tap_column) * inputs + depth, _ALL]))
                at_row = row * down + tap_row * dilation_down - above
                for column, pixel in enumerate(sums):
                    at_column = (first + column) * right + tap_column * dilation_right - before
                    x = _group_inputs(source, [image, at_row, at_column], channel, depth, inputs, settings["group_outputs"])
                    T.buffer_store(pixel, pixel[_ALL] + T.Cast(f"int32x{LANES}", x) * w, [_ALL])
            rows = requantization(call, channel)
            for column, pixel in enumerate(sums):
                finish(call, pixel[_ALL], rows, [image, row, first + column], channel)


def _group_inputs(source: Operand, position: list[Expr], channel: Expr, depth: Expr, inputs: int, outputs: int) -> Expr:
    """The input of number `depth` of the group that each of 16 output channels belongs to."""
    if inputs == outputs == 1:
        return source.load_lanes(position, channel)
    if outputs % LANES == 0 or inputs == source.spec.logical_channels:
        group = channel // outputs if inputs < source.spec.logical_channels else 0
        return T.Broadcast(source.load(position, group * inputs + depth), LANES)
    # lanes beyond the last channel have zero weights; they only must not read outside the buffer
    group_of_lane = T.Ramp(channel, 1, LANES) // lanes(outputs)
    group = T.min(group_of_lane, lanes(source.spec.logical_channels // inputs - 1))
    return source.load(position, group * lanes(inputs) + T.Broadcast(depth, LANES))
