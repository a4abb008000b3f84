"""requantize(linear(x, A), a), requantize(linear(x, B), b) ==> slices of requantize(linear(x, [A; B]), [a; b]); convolutions alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import GIVEN, Context, Exact, Pass, Promise
from ..latency import Latency
from .branches import channels_axis, joinable, joined, kind, rows, siblings, take_apart
from .faster import fastest
from .readers import readers

_fxp = torch.ops.fxp
_LAYERS = (_fxp.linear.default, _fxp.conv2d.default)
_MULTIPLIER = 1 << 15
"""What a multiplier stays below."""
_WIDTHS = (2, 4, 8)
"""Bits that a weight's elements may take in a file."""


@dataclass(frozen=True)
class FuseParallelInteger(Pass):
    """Compute layers that read one value at once in an integer program: queries, keys and values; gate and up; equal branches.

    Multipliers are one a channel, so every slice keeps the scale of its layer. A shift is one for all: where shifts differ,
    multipliers are doubled until they agree, which rounds nothing anew, or the layer stays apart.

    Options:
        measure: says whether the fused program is faster, by kinds of layers; a kind that is not stays apart
            (``fx.latency_on(target)``). None where all are fused: the pipeline's own guard measures what is not quantised yet.
    """

    name: ClassVar[str] = "fuse-parallel-integer"
    promise: ClassVar[Promise] = Exact()
    takes: ClassVar[tuple[str, ...]] = ("integer", "mixed")
    measure: Latency | None = field(default=None, metadata={GIVEN: True})

    def apply(self, program: Program, context: Context) -> Program:
        kinds: dict[str, list[list[fx.Node]]] = defaultdict(list)
        for layers in siblings(program.graph, _LAYERS):
            for alike in _alike(program, joinable(layers, context), context):
                kinds[kind(alike)].append(alike)
        return fastest(program, list(kinds.items()), _fused, self.measure, context) if kinds else program


def _alike(program: Program, layers: Sequence[fx.Node], context: Context) -> Iterator[list[fx.Node]]:
    """Those whose results are stored alike and can be rescaled by one shift; one that has no like is refused."""
    found: dict[tuple[object, ...], list[fx.Node]] = defaultdict(list)
    for layer in layers:
        if _requantized(layer) is None:
            context.refuse(layer, "its sums are not requantised once, along its outputs", "it stays a layer of its own")
        else:
            found[_result(program, layer)].append(layer)
    for alike in found.values():
        shift = max(_shift(layer) for layer in alike)
        fitting = [layer for layer in alike if _most(program, layer) << (shift - _shift(layer)) < _MULTIPLIER]
        for layer in alike:
            if len(found) > 1 and len(alike) == 1:
                context.refuse(layer, "its range, type or width of weights is that of no layer beside it", "it stays a layer of its own")
            elif layer not in fitting:
                context.refuse(layer, f"its multipliers do not fit a shift of {shift}", "it stays a layer of its own")
        if len(fitting) > 1:
            yield fitting


def _requantized(layer: fx.Node) -> fx.Node | None:
    """The requantisation that alone reads a layer's sums, its multipliers constants along the outputs."""
    user, *others = readers(layer) or [layer]
    if others or user.target is not _fxp.requantize.default:
        return None
    named, rank = arguments(user), layer.meta["val"].dim()
    along = named["b"].meta["val"].shape[0] == 1 or named["axis"] % rank == channels_axis(layer)
    return user if along else None


def _settings(layer: fx.Node) -> dict[str, Any]:
    requantized = _requantized(layer)
    assert requantized is not None
    return arguments(requantized)


def _result(program: Program, layer: fx.Node) -> tuple[object, ...]:
    """What one operator has once: the range and the type of its results; and the bits of its weights."""
    named, weight = _settings(layer), program.tensors[str(arguments(layer)["weight"].target)]
    width = next(bits for bits in _WIDTHS if int(weight.abs().max()) < 1 << (bits - 1))
    return named["qmin"], named["qmax"], named["dtype"], width


def _shift(layer: fx.Node) -> int:
    return int(_settings(layer)["c"])


def _most(program: Program, layer: fx.Node) -> int:
    return int(program.tensors[str(_settings(layer)["b"].target)].max())


def _fused(program: Program, groups: Sequence[Sequence[fx.Node]]) -> Program:
    edit = program.edit()
    for group in groups:
        layers = [edit.here(layer) for layer in group]
        results = [readers(layer)[0] for layer in layers]
        axis, shift = channels_axis(layers[0]), max(_shift(layer) for layer in layers)
        multipliers = torch.cat(
            [_multipliers(edit, layer, end - start, shift) for layer, (start, end) in zip(layers, rows(layers), strict=True)]
        )
        acc, named = joined(edit, layers), arguments(results[0])
        with edit.graph.inserting_after(acc):
            b = edit.add_tensor(f"{acc.name}.multiplier", multipliers)
        with edit.graph.inserting_after(b):
            settings = (shift, named["qmin"], named["qmax"], axis, named["dtype"])
            whole = edit.call(_fxp.requantize.default, acc, b, *settings, like=results[0], name=f"{results[0].name}_joined")
        take_apart(edit, whole, layers, results, axis)
    return edit.finish()


def _multipliers(edit: Edit, layer: fx.Node, count: int, shift: int) -> Tensor:
    """One for each output, for a larger shift."""
    return (edit.tensor(_settings(layer)["b"]) << (shift - _shift(layer))).expand(count)
