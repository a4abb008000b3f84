"""A matrix for what linear layers read ==> the error of their results, inputs and weights quantised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.nn import functional

from .error import error, powers, rounding
from .residual import Residual
from .rotation import gain_and_shift, turned
from .sites import is_layer

Compare = Callable[[Tensor | None], float]
"""The error with blocks of a matrix, float64 [block, block], and without (None)."""


@dataclass(frozen=True)
class _Read:
    """A reader of a stream: its rows and weight as they are and without gain and shift, the mean squares of its results and rows."""

    plain: tuple[Tensor, Tensor]
    bare: tuple[Tensor, Tensor]
    scale: float
    power: float


@dataclass(frozen=True)
class Comparison:
    """What rotations are judged by.

    Attributes:
        program: in the float stage.
        seen: rows of what layers and normalisations read, float32 [n, channels], by the value's name.
        activation_bits, weight_bits: of the grids.
    """

    program: Program
    seen: Mapping[str, Tensor]
    activation_bits: int
    weight_bits: int

    def readers(self, layers: Sequence[fx.Node]) -> Compare:
        """Of layers that read one value."""
        rows, weights = self.seen[input_of(layers[0]).name], [self._weight(layer) for layer in layers]
        scales = powers(rows, weights)

        def compare(part: Tensor | None) -> float:
            x, *others = (rows, *weights) if part is None else [turned(part, matrix) for matrix in (rows, *weights)]
            return self._error(x, others, scales)

        return compare

    def path(self, producer: fx.Node, rows: Tensor, layers: Sequence[fx.Node]) -> Compare:
        """Of layers behind another one, whose `rows` the channels come from; what rounding its weight does passes through them."""
        weight, behind = self._weight(producer), [self._weight(layer) for layer in layers]
        scales = powers(self.seen[input_of(layers[0]).name], behind)
        readers, x = self.readers(layers), self.seen[input_of(producer).name]

        def compare(part: Tensor | None) -> float:
            noise = (x @ rounding(weight if part is None else turned(part, weight.T).T, self.weight_bits).T)[:, rows]
            return readers(part) + _through(noise.T @ noise / len(noise), [w if part is None else turned(part, w) for w in behind], scales)

        return compare

    def residual(self, stream: Residual) -> Compare:
        """Of all who read a stream, the writers before them rounded; without a rotation gains and shifts stay where they are."""
        reads = {layer: self._read(stream, layer, norm) for layer, norm in stream.readers}
        writes = {layer: (self.seen[input_of(layer).name], self._weight(layer)) for layer in stream.writers if is_layer(layer)}
        # one that reads the stream itself reads it before it writes
        order = [(node, kind) for node in self.program.graph.nodes for kind in (reads, writes) if node in kind]

        def compare(part: Tensor | None) -> float:
            noise, total = torch.zeros(stream.width, stream.width), 0.0
            for node, kind in order:
                if kind is writes:
                    added = self._written(*writes[node], part, stream.centred)
                    noise += added.T @ added / len(added)
                    continue
                read = reads[node]
                rows, weight = read.plain if part is None else (turned(part, matrix) for matrix in read.bare)
                total += self._error(rows, [weight], [read.scale]) + _through(noise / read.power, [weight], [read.scale])
            return total

        return compare

    def _read(self, stream: Residual, layer: fx.Node, norm: fx.Node | None) -> _Read:
        weight, rows = self._weight(layer), self.seen[input_of(norm or layer).name]
        if norm is None:
            return _Read((rows, weight), (rows, weight), powers(rows, [weight])[0], 1.0)
        centred = rows - rows.mean(-1, keepdim=True) if stream.centred else rows
        unit = functional.rms_norm(centred, [stream.width], eps=arguments(norm)["eps"])
        gain, shift = (part.float() for part in gain_and_shift(self.program.tensors, norm, stream.width))
        plain = unit * gain + shift
        return _Read((plain, weight), (unit, weight * gain), powers(plain, [weight])[0], max(float(centred.square().mean()), 1e-30))

    def _written(self, rows: Tensor, weight: Tensor, part: Tensor | None, centred: bool) -> Tensor:
        """What rounding a writer's weight adds to a stream, as its normalisations see it."""
        if part is None:
            added = rows @ rounding(weight, self.weight_bits).T
            return added - added.mean(-1, keepdim=True) if centred else added
        whole = weight - weight.mean(0) if centred else weight
        return rows @ rounding(turned(part, whole.T).T, self.weight_bits).T

    def _error(self, rows: Tensor, weights: Sequence[Tensor], scales: Sequence[float]) -> float:
        return error(rows, weights, scales, self.activation_bits, self.weight_bits)

    def _weight(self, layer: fx.Node) -> Tensor:
        return self.program.tensors[str(arguments(layer)["weight"].target)].detach()


def _through(noise: Tensor, weights: Sequence[Tensor], scales: Sequence[float]) -> float:
    """The mean square of what layers make of noise, given its second moments [channels, channels], over `scales`, summed."""
    return sum(float(((weight @ noise) * weight).sum(1).mean()) / scale for weight, scale in zip(weights, scales, strict=True))


def input_of(node: fx.Node) -> fx.Node:
    """What a linear layer or a normalisation reads."""
    value: fx.Node = arguments(node)["input"]
    return value
