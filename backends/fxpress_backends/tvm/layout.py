"""Program and target ==> how each value lies where it is stored: images with their channels innermost, other tensors row-major."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.ops import SHAPE_OPERATORS, arguments, constant
from numpy.typing import NDArray
from torch import Tensor, fx

from fxpress_backends.contract import Target

from .nodes import IMAGE_OPERATORS, PICKING, ROW_OPERATORS, dtype_of, is_fixed, is_identity, plain_name, readers
from .pack import LANES, WORD
from .physical import NO_HALO, Buffer
from .sizes import Extent, padded
from .steps import extents_of

_fxp = torch.ops.fxp
SHIFTED = "u8+128"
_BORDERS = frozenset({_fxp.quantize.default, _fxp.dequantize.default})
"""Their floats lie as callers and islands see them."""


def images(program: Program) -> frozenset[fx.Node]:
    """What kernels of images read and write, and every tensor that others combine with it value by value."""
    alike: defaultdict[fx.Node, set[fx.Node]] = defaultdict(set)
    waiting: list[fx.Node] = []
    apart, islands = ROW_OPERATORS | _BORDERS, frozenset(program.islands)
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target in apart or node.name in islands:
            continue
        if node.target in IMAGE_OPERATORS:
            waiting += [node, arguments(node)["x"]]
        elif node.target not in SHAPE_OPERATORS or node.target in PICKING or is_identity(node):
            for used in filter(_has_four_dimensions, node.all_input_nodes if _has_four_dimensions(node) else []):
                alike[used].add(node)
                alike[node].add(used)
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += alike[node]
    return frozenset(found)


def _has_four_dimensions(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() == 4


class Layout:
    """What the program alone says of its values, and the buffers that suit them."""

    def __init__(self, program: Program, target: Target) -> None:
        self.program = program
        self._target = target
        self._names = program.symbols()
        self._images = images(program)
        self._known: dict[fx.Node, Tensor] = {}

    def constant(self, node: fx.Node) -> NDArray[np.int64]:
        return constant(node, self.program.tensors)

    def extents(self, node: fx.Node) -> list[Extent]:
        """The shape of a node."""
        return extents_of(node, self._names)

    def is_image(self, node: fx.Node) -> bool:
        """The node's tensor has four dimensions and lies with its channels, dimension 1, innermost."""
        return node in self._images

    def loop_of(self, node: fx.Node, dimension: int) -> int:
        """A logical dimension's place among the physical ones ``[lead, *outer, channels]`` of the node's tensor."""
        rank = len(node.meta["val"].shape)
        return ([0, 2, 3, 1] if self.is_image(node) else list(range(rank))).index(dimension % rank)

    def known(self, node: fx.Node) -> Tensor | None:
        """The value of a tensor of the program, or of what only moves one by numbers; None where it is computed."""
        if node.op == "get_attr":
            return self.program.tensors[str(node.target)]
        if node not in self._known and is_fixed(node):
            self._known[node] = node.target(self.known(arguments(node)["self"]), *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return self._known.get(node)

    def plain(self, node: fx.Node) -> Buffer:
        """The buffer as callers see a tensor: row-major, nothing padded, the program's own dtype."""
        lead, *shape = self.extents(node)
        return Buffer(plain_name(node), lead, tuple(shape), "rows", shape[-1], NO_HALO, dtype_of(node))

    def stored(self, node: fx.Node) -> Buffer:
        """The buffer that suits the readers of a value: NHWC with their padding around it where it is an image."""
        lead, *shape = self.extents(node)
        dtype = dtype_of(node)
        shifted = dtype == "int8" and self._target.storage == SHIFTED
        kept = ("uint8", 128) if shifted else ("uint8" if dtype == "bool" else dtype, 0)
        if not self.is_image(node):
            return Buffer(node.name, lead, tuple(shape), "rows", padded(shape[-1], LANES), NO_HALO, *kept)
        convolutions = [reader for reader in readers(node) if reader.target is _fxp.conv2d.default]
        halo = tuple(np.max([arguments(reader)["padding"] for reader in convolutions], axis=0).tolist()) if convolutions else NO_HALO
        return Buffer(node.name, lead, tuple(shape), "NHWC", padded(shape[0], self._channel_multiple(node)), halo, *kept)

    def _channel_multiple(self, node: fx.Node) -> int:
        """Kernels write whole vectors; an image that enters for dense convolutions alone keeps to whole words."""
        enters = node.op == "placeholder" or node.target is _fxp.quantize.default
        dense = all(r.target is _fxp.conv2d.default and arguments(r)["groups"] == 1 for r in readers(node))
        return WORD if enters and dense and node.meta["val"].shape[1] < LANES else LANES

    def rows_like(self, buffer: Buffer) -> Buffer:
        """The same tensor row-major; a buffer of rows itself."""
        if buffer.layout == "rows":
            return buffer
        return replace(buffer, name=f"{buffer.name}.rows", layout="rows", innermost=padded(buffer.shape[-1], LANES), halo=NO_HALO)
