"""conv2d in AMX tiles: 16 neighbouring pixels of an NHWC image are a tile's rows, taps are offsets of its address; nothing is copied.

Tiles follow a row of outputs, or run on from row to row over what the input stores between them: those sums are left out.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, WORD
from .amx import Block, shares
from .epilogue import finish, requantization
from .operand import Call, Expr, fill_halo


def conv2d_amx(call: Call) -> None:
    """Tasks are blocks of up to 32 pixels x 32 channels, pixels innermost where the weights are more than stay in cache."""
    source, output, settings = call.inputs[0], call.output, call.attributes
    weight, bias = call.constants[:2]
    rows, tall, wide = settings["tile"]
    emulated, walk = settings.get("emulated", False), _Walk(call)
    words = weight.shape[2] // (LANES * WORD)
    data = source.flat()

    per_group = settings.get("group_outputs", output.spec.channels) // LANES
    per_group_blocks = -(-per_group // wide)
    blocks = output.spec.channels // LANES // per_group * per_group_blocks
    per_image = -(-walk.tiles // tall)

    fill_halo(output)
    with shares(emulated, blocks * output.lead * per_image, lambda: Block(emulated, tall, wide, rows, words)) as (block, task):
        tasks = output.lead * per_image
        across, down = (task // tasks, task % tasks) if settings["weights_outermost"] else (task % blocks, task // blocks)
        group = T.bind(across // per_group_blocks)
        first_vector = T.bind(group * per_group + T.min(across % per_group_blocks * wide, per_group - wide))
        image = T.bind(down // per_image)
        places = [walk.place(T.min(down % per_image * tall + i, walk.tiles - 1)) for i in range(tall)]
        corners = [T.bind(image * source.image_elements + walk.corner(place) + group * walk.group_bytes) for place in places]
        block.start([T.address_of(bias[(first_vector + j) * LANES]) for j in range(wide)])
        with T.serial(walk.kernel_height) as tap, T.serial(walk.runs) as run, T.serial(walk.steps) as step:
            byte = tap * walk.tap_bytes + run * walk.next_run + T.min(step * (words * WORD), walk.run_bytes - words * WORD)
            number = (tap * walk.runs + run) * walk.steps + step
            weights = [T.address_of(weight[first_vector + j, number, 0]) for j in range(wide)]
            block.step([T.address_of(data[corner + byte]) for corner in corners], walk.pixel_step, weights)
        block.store()
        channels = [T.bind((first_vector + j) * LANES) for j in range(wide)]
        parameters = [requantization(call, channel) for channel in channels]
        for i, place in enumerate(places):
            with T.serial(rows) as row:

                def store(position: list[Expr], i: int = i, row: Expr = row) -> None:
                    for j, channel in enumerate(channels):
                        finish(call, block.sums(i, j, row), parameters[j], [image, *position], channel)

                walk.at(place, row, store)


class _Walk:
    """Which outputs the tiles of an image are, and where their inputs lie in it, in bytes."""

    def __init__(self, call: Call) -> None:
        source, settings = call.inputs[0].spec, call.attributes
        self._height, self._width = call.output.spec.pixels
        self._rows, self._across = settings["tile"][0], settings["across"]
        (down, right), (self.kernel_height, kernel_width) = settings["stride"], settings["kernel"]
        (dilation_down, dilation_right), padding = settings["dilation"], settings["padding"]
        pixel = source.channels
        stored_row = source.middle[1] if source.middle else 1
        assert isinstance(stored_row, int), "an image"
        self._pitch = stored_row
        top, left = (have - used for have, used in zip(source.halo[:2], padding[:2], strict=True))
        self._start = (top * stored_row + left) * pixel
        self._down, self.pixel_step = down * stored_row * pixel, right * pixel
        self.group_bytes: int = settings.get("group_inputs", pixel)
        dense = dilation_right == 1 and self.group_bytes == pixel
        self.runs = 1 if dense else kernel_width
        self.run_bytes = self.group_bytes * (kernel_width if dense else 1)
        self.next_run, self.tap_bytes = dilation_right * pixel, dilation_down * stored_row * pixel
        self.steps = call.constants[0].shape[1] // (self.kernel_height * self.runs)
        self._length = (self._height - 1) * self._pitch + self._width if self._across else self._width
        self._per_strip = -(-self._length // self._rows)
        self.tiles = self._per_strip if self._across else self._height * self._per_strip

    def place(self, tile: Expr) -> tuple[Expr, Expr]:
        """The strip of a tile, and its first position in it; the last tile of a strip is moved back."""
        return T.bind(tile // self._per_strip), T.bind(T.min(tile % self._per_strip * self._rows, self._length - self._rows))

    def corner(self, place: tuple[Expr, Expr]) -> Expr:
        """Where the first input of a tile lies."""
        strip, first = place
        return self._start + strip * self._down + first * self.pixel_step

    def at(self, place: tuple[Expr, Expr], row: Expr, store: Callable[[list[Expr]], None]) -> None:
        """Call `store` with the output's row and column, unless the tile's row lies between two of them."""
        strip, first = place
        if not self._across:
            store([strip, first + row])
            return
        position = T.bind(first + row)
        column = T.bind(position % self._pitch)
        with T.If(column < self._width), T.Then():
            store([position // self._pitch, column])
