"""linear as AMX tiles of rows x channels; the last tile of rows is moved back, fewer rows than a tile's make smaller tiles."""

from __future__ import annotations

from math import prod

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, WORD
from .amx import Block, shares
from .epilogue import finish, requantization
from .linear_vnni import indices
from .operand import Call


def linear_amx(call: Call) -> None:
    """Tasks are blocks of up to 32 rows x 32 channels, rows innermost where the weights are more than stay in cache."""
    (source,), output, settings = call.inputs, call.output, call.attributes
    weight, bias = call.constants[:2]
    most, tall, wide = settings["tile"]
    emulated, depth = settings.get("emulated", False), source.spec.channels
    words = weight.shape[2] // (LANES * WORD)
    count = output.lead * prod(output.outer)
    rows = most if isinstance(count, int) else T.bind(T.max(T.min(count, most), 1))
    tiles = T.bind((count + rows - 1) // rows)
    tasks = T.bind((tiles + tall - 1) // tall)
    vectors = output.spec.channels // LANES
    blocks, data = -(-vectors // wide), source.flat()

    with shares(emulated, tasks * blocks, lambda: Block(emulated, tall, wide, rows, words)) as (block, task):
        across, down = (task // tasks, task % tasks) if settings["weights_outermost"] else (task % blocks, task // blocks)
        first_vector = T.bind(T.min(across * wide, vectors - wide))
        first_rows = [T.bind(T.max(T.min((down * tall + i) * rows, count - rows), 0)) for i in range(tall)]
        block.start([T.address_of(bias[(first_vector + j) * LANES]) for j in range(wide)])
        with T.serial(weight.shape[1]) as step:
            byte = T.min(step * (words * WORD), depth - words * WORD)
            inputs = [T.address_of(data[first * depth + byte]) for first in first_rows]
            block.step(inputs, depth, [T.address_of(weight[first_vector + j, step, 0]) for j in range(wide)])
        block.store()
        channels = [T.bind((first_vector + j) * LANES) for j in range(wide)]
        parameters = [requantization(call, channel) for channel in channels]
        for i, first in enumerate(first_rows):
            with T.serial(rows) as row:
                for j, channel in enumerate(channels):
                    finish(call, block.sums(i, j, row), parameters[j], indices(first + row, output.outer), channel)
