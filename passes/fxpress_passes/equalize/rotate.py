"""y = W x ==> y = (W R^T) (R x) with R orthonormal, Hadamard blocks, so that no channel of R x is wider than all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.hadamard import BLOCK_LIMIT, is_hadamard
from fxpress_ir.errors import PipelineError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise
from .carry import carries, path_to
from .comparison import Compare, Comparison, input_of
from .factors import Observer
from .hadamard import block_size, hadamard
from .residual import Residual, residuals
from .rotation import insert, rotate_residual, rotate_rows
from .sites import Site, is_layer, sites

_CHANCE = 0.2
"""Decibels that a folded rotation has to gain: less may be the luck of the signs and of the rows."""


@dataclass(frozen=True)
class Rotate(Pass):
    """Multiply what linear layers read by Hadamard matrices, and their weights too (QuaRot, Ashkboos et al. 2024; HALO, M225).

    In three places, each only where the layers' results, their inputs and weights quantised, are nearer on rows of calibration
    data. A residual stream that normalisations read is rotated by all who write to it, after gains and shifts have gone into the
    readers and, of a LayerNorm, the centring into the writers (SliceGPT, Ashkboos et al. 2024), which makes it an RMSNorm. What
    comes from a linear layer, moved or through attention, is rotated by that layer's rows. In front of others stands a linear
    layer over blocks of channels, whose input keeps 16 bits in integer programs.

    Options:
        residual: rotate residual streams.
        explicit: put layers of their own in front of others.
        least: decibels that such a layer has to gain.
        draws: signs that are tried for each matrix.
        activation_bits, weight_bits: in that comparison.
    """

    name: ClassVar[str] = "rotate"
    promise: ClassVar[Promise] = Close(1e-4, "rotations that cancel are rounded")
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants", "equalize")
    needs: ClassVar[tuple[str, ...]] = (
        *("remove-noops", "fold-positions", "compose-linear", "compose-rms-norm"),
        *("decompose-unflatten", "decompose-roll", "decompose-attention"),
    )
    residual: bool = True
    explicit: bool = True
    least: float = 3.0
    draws: int = 4
    activation_bits: int = 8
    weight_bits: int = 8

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise PipelineError(f"draws={self.draws}", where=self.name, way_on="1 or more")
        for option in ("activation_bits", "weight_bits"):
            if not 2 <= getattr(self, option) <= 16:
                raise PipelineError(f"{option}={getattr(self, option)}", where=self.name, way_on="2 to 16")

    def apply(self, program: Program, context: Context) -> Program:
        values = _values(program)
        if not values:
            return program
        streams = self._streams(program, context)
        observer = Observer(
            program, frozenset({value.name for value in values} | {input_of(norm).name for s in streams for norm in s.norms})
        )
        for batch in context.evidence.calibration.batches(program):
            observer.observe(batch)
        seen = {name: channels.rows for name, channels in observer.found.items()}
        comparison = Comparison(program, seen, self.activation_bits, self.weight_bits)
        generator = torch.Generator().manual_seed(context.seed)
        edit, done = program.edit(), set[fx.Node]()
        for stream in streams:
            part = self._best(comparison.residual(stream), block_size(stream.width), generator)
            if part is not None:
                rotate_residual(edit, stream, part)
                done.update(layer for layer, _ in stream.readers)
        paths = {site.value: site for site in sites(program) if isinstance(site, Site) and site.kind == "rows" and site.shifts}
        for value, layers in values.items():
            if not done.isdisjoint(layers):
                continue
            path, part = paths.get(value), None
            if path is not None and path.rows is not None:
                if _is_rotation(program, path.producer):
                    continue
                compare = comparison.path(path.producer, path.rows, layers)
                part = self._best(compare, _shared_block(program, path), generator)
            if path is not None and part is not None:
                rotate_rows(edit, path.producer, layers, part)
            elif (part := self._inserted(value, layers, comparison.readers(layers), context, generator)) is not None:
                insert(edit, value, layers, part)
            else:
                continue
            done.update(layers)
        return edit.finish() if done else program

    def _streams(self, program: Program, context: Context) -> list[Residual]:
        found: list[Residual] = []
        for stream in residuals(program) if self.residual else ():
            if isinstance(stream, Residual):
                found.append(stream)
            else:
                context.refuse(stream[0], f"its residual stream is not rotated: {stream[1]}")
        return found

    def _inserted(
        self, value: fx.Node, layers: Sequence[fx.Node], compare: Compare, context: Context, generator: torch.Generator
    ) -> Tensor | None:
        """The block of a layer in front of others, where it gains enough."""
        size = block_size(int(value.meta["val"].shape[-1]), BLOCK_LIMIT)
        if size == 1:
            context.refuse(layers[0], f"no Hadamard matrix multiplies its {value.meta['val'].shape[-1]} channels, an odd number")
            return None
        part = self._best(compare, size, generator, self.least)
        if part is not None and not self.explicit:
            context.refuse(layers[0], "a rotation in front of it would be a layer of its own", "say explicit=true")
            return None
        return part

    def _best(self, compare: Compare, size: int, generator: torch.Generator, least: float = _CHANCE) -> Tensor | None:
        """The block under which the error is smallest, None where none gains the decibels."""
        if size == 1:
            return None
        before = compare(None)
        found = [(compare(part), part) for part in (hadamard(size, generator) for _ in range(self.draws))]
        after, part = min(found, key=lambda pair: pair[0])
        return part if after < before * 10 ** (-least / 10) else None


def _shared_block(program: Program, site: Site) -> int:
    """The largest block that passes from a layer's rows to the channels behind it, 1 where none does."""
    path, size = path_to(site.value, site.producer), block_size(int(site.value.meta["val"].shape[-1]))
    while size > 1 and not carries(program, path, size):
        size //= 2
    return size


def _values(program: Program) -> dict[fx.Node, list[fx.Node]]:
    """What linear layers read, channels last; rotations are no such layers."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if is_layer(node) and not _is_rotation(program, node):
            found.setdefault(input_of(node), []).append(node)
    return found


def _is_rotation(program: Program, layer: fx.Node) -> bool:
    return is_hadamard(program.tensors[str(arguments(layer)["weight"].target)])
