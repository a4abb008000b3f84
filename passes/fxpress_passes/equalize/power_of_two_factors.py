"""norm(W x) ==> norm(W' x)[:N], W' the rows over 2**a, each 4**a times, so that narrow channels are stored in finer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.errors import PipelineError
from fxpress_ir.ops import SIZE_OPERATORS, arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise
from .copies import Copies, copies_of, exponents, rounded_error
from .factors import Channels, Observer
from .layers import constant, rewrite
from .residual import NORMS
from .sites import is_layer

_aten = torch.ops.aten
LONGEST_ROW = 4096
"""Values that an integer normalisation takes."""


@dataclass(frozen=True)
class PowerOfTwoFactors(Pass):
    """Store the channels that a normalisation reads in steps of s, 2s, 4s, ... (FQ-ViT's Power-of-Two Factor, Lin et al. 2022).

    A channel ``2**a`` times as wide is divided by it in the rows of the linear layer before, exactly, and stands ``4**a`` times
    among the channels, so that their squares sum to what they did and the normalisation needs no shifts of its own; of a
    LayerNorm the copies' signs leave the sum of the channels, and the centring goes into the rows. Exponents are chosen by the
    error of the result, its input, its units and itself rounded as integers are, on rows of calibration data.

    Options:
        largest: the largest exponent, FQ-ViT's K.
        growth: channels with all copies, at most so many times those without.
        least: decibels that a normalisation's result has to gain.
    """

    name: ClassVar[str] = "power-of-two-factors"
    promise: ClassVar[Promise] = Close(1e-4, "sums of more squares are rounded in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants", "equalize", "rotate", "noisy-bias")
    needs: ClassVar[tuple[str, ...]] = ("remove-noops", "fold-constants", "compose-linear", "compose-rms-norm")
    largest: int = 3
    growth: float = 2.0
    least: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.largest <= 6:
            raise PipelineError(f"largest={self.largest}", where=self.name, way_on="1 to 6: a channel stands 4**largest times")
        if not self.growth > 1:
            raise PipelineError(f"growth={self.growth:g}", where=self.name, way_on="above 1, e.g. 2")

    def apply(self, program: Program, context: Context) -> Program:
        found: dict[fx.Node, list[fx.Node]] = {}
        refused: set[fx.Node] = set()
        for norm in (node for node in program.graph.nodes if node.target in NORMS):
            layer: fx.Node = arguments(norm)["input"]
            found.setdefault(layer, []).append(norm)
            if (reason := _refusal(norm, layer)) is not None:
                context.refuse(norm, reason)
                refused.add(layer)
        found = {layer: norms for layer, norms in found.items() if layer not in refused}
        if not found:
            return program
        observer = Observer(program, frozenset(layer.name for layer in found))
        for batch in context.evidence.calibration.batches(program):
            observer.observe(batch)
        edit, changed = program.edit(), False
        for layer, norms in found.items():
            copies = self._best(program, observer.found[layer.name], norms)
            if copies is None:
                context.refuse(norms[0], f"no factors up to 2**{self.largest} gain {self.least:g} dB")
            else:
                _rewrite(edit, layer, norms, copies)
                changed = True
        return edit.finish() if changed else program

    def _best(self, program: Program, seen: Channels, norms: Sequence[fx.Node]) -> Copies | None:
        """The copies under which the results are nearest; None where none gains enough."""
        centre = norms[0].target is _aten.layer_norm.default
        rows = seen.rows.double()
        reach = torch.maximum(seen.high, -seen.low).double()
        if centre:  # how far a channel goes from the mean of its row is known of the rows that were kept alone
            rows = rows - rows.mean(1, keepdim=True)
            reach = rows.abs().amax(0)
        count = len(reach)
        most = min(LONGEST_ROW, int(self.growth * count))

        def measured(tried: Tensor) -> float:
            return sum(rounded_error(rows, reach, tried, *_parts(program.tensors, norm), centre=centre) for norm in norms)

        tried = [exponents(reach, largest) for largest in range(1, self.largest + 1)]
        scored = [(measured(one), place) for place, one in enumerate(tried) if one.any() and int((4**one).sum()) <= most]
        after, place = min(scored, default=(float("inf"), 0))
        gains = after < measured(torch.zeros_like(tried[0])) * 10 ** (-self.least / 10)
        return copies_of(tried[place]) if gains else None


def _refusal(norm: fx.Node, layer: fx.Node) -> str | None:
    """Why the channels that a normalisation reads take no factors."""
    named, shape = arguments(norm), arguments(norm)["normalized_shape"]
    if len(shape) != 1 or not isinstance(shape[0], int):
        return "it normalises over more than the last dimension, or over a symbolic one"
    if any(part is not None and part.op != "get_attr" for part in (named["weight"], named.get("bias"))):
        return "its gain is computed, not constant"
    if not is_layer(layer):
        source = layer.target if layer.op == "call_function" else "an input"
        return f"what it reads comes from {source}, not from the rows of a linear layer"
    readers = [user for user in layer.users if user.target not in SIZE_OPERATORS]
    if any(user.target is not norm.target for user in readers):
        return "what it reads is read by others too, which would see other channels"
    if any(user.op == "output" for user in norm.users):
        return "its result leaves the program, in 16 bits, of which a part of another would keep 8"
    return None


def _parts(tensors: Mapping[str, Tensor], norm: fx.Node) -> tuple[Tensor, Tensor, float]:
    """Gain and shift, float64 [channels], and the epsilon of a normalisation."""
    named, count = arguments(norm), arguments(norm)["normalized_shape"][0]
    gain, shift = (
        default if named.get(part) is None else tensors[str(named[part].target)].detach().double()
        for part, default in (("weight", torch.ones(count).double()), ("bias", torch.zeros(count).double()))
    )
    return gain, shift, torch.finfo(torch.float32).eps if named["eps"] is None else float(named["eps"])


def _rewrite(edit: Edit, layer: fx.Node, norms: Sequence[fx.Node], copies: Copies) -> None:
    centre = norms[0].target is _aten.layer_norm.default
    signs = copies.signs if centre else copies.signs.abs()
    factors = signs / 2.0 ** copies.exponents[copies.source]

    def spread(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        if centre:
            weight, bias = weight - weight.mean(0), bias - bias.mean()
        return weight[copies.source] * factors[:, None], bias[copies.source] * factors

    rewrite(edit, edit.here(layer), spread)
    count, total = len(copies.exponents), len(copies.source)
    for norm in map(edit.here, norms):
        gain, shift, epsilon = _parts(edit.tensors, norm)
        gain = gain * 2.0**copies.exponents * math.sqrt(count / total)
        parts = [constant(edit, norm, f"{norm.name}.gain", torch.cat([gain, gain.new_zeros(total - count)]))]
        if centre:
            parts.append(constant(edit, norm, f"{norm.name}.shift", torch.cat([shift, shift.new_zeros(total - count)])))
        with edit.graph.inserting_before(norm):
            whole = edit.call(norm.target, norm.args[0], [total], *parts, epsilon * count / total, like=norm)  # type: ignore[arg-type]
            part = edit.call(_aten.slice.Tensor, whole, norm.meta["val"].dim() - 1, 0, count, like=norm)
        edit.replace(norm, part)
