"""Windows over NHWC images, clipped to the image: padding adds nothing to a sum and never is a maximum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .epilogue import finish, requantization
from .operand import Call, Expr, Operand, fill_halo, lanes, over


def max_pool2d(call: Call) -> None:
    """Stored values are compared: a zero point moves all of them alike."""
    (source,), output = call.inputs, call.output
    dtype = output.spec.dtype
    wide = next(count for count in (64, 32, 16) if output.spec.channels % count == 0)
    every = T.Ramp(0, 1, wide)
    least = T.Cast(dtype, T.int32(int(np.iinfo(dtype).min)))

    def pixel(outer: list[Expr]) -> None:
        with T.serial(output.spec.channels // wide) as block:
            most = T.alloc_buffer((wide,), dtype)
            T.buffer_store(most, T.Broadcast(least, wide), [every])

            def tap(position: list[Expr]) -> None:
                T.buffer_store(most, T.max(most[every], source.load_lanes(position, block * wide, wide)), [every])

            _window(call, source, outer, tap)
            output.store_lanes(most[every], outer, block * wide, wide)

    fill_halo(output)
    over(output, pixel)


def sum_pool2d(call: Call) -> None:
    """int32 sums of the values without their zero point, requantised where a requantisation is fused."""
    (source,), output = call.inputs, call.output
    every = T.Ramp(0, 1, LANES)

    def pixel(outer: list[Expr]) -> None:
        with T.serial(output.spec.channels // LANES) as block:
            sums = T.alloc_buffer((LANES,), "int32")
            T.buffer_store(sums, lanes(0), [every])

            def tap(position: list[Expr]) -> None:
                T.buffer_store(sums, sums[every] + source.integers(position, block * LANES), [every])

            _window(call, source, outer, tap)
            finish(call, sums[every], requantization(call, block * LANES), outer, block * LANES)

    fill_halo(output)
    over(output, pixel)


def _window(call: Call, source: Operand, outer: list[Expr], tap: Callable[[list[Expr]], None]) -> None:
    """Run `tap` at each position of the window of an output pixel that lies inside the image."""
    settings = call.attributes
    starts = [outer[1 + d] * settings["stride"][d] - settings["padding"][d] for d in (0, 1)]
    ranges = []
    for d, start in enumerate(starts):
        dilation = settings["dilation"][d]
        first = T.max(0, (dilation - 1 - start) // dilation)
        last = T.min(settings["kernel"][d], (source.spec.pixels[d] - start + dilation - 1) // dilation)
        ranges.append((T.bind(first), T.bind(last)))
    with T.serial(*ranges[0]) as down, T.serial(*ranges[1]) as right:
        tap([outer[0], starts[0] + down * settings["dilation"][0], starts[1] + right * settings["dilation"][1]])
