"""y = W Q(x) + b ==> y = W Q(x + n) + (b - W n), n noise that is drawn once, added by what computes x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.analysis.hadamard import is_hadamard
from fxpress_ir.errors import PipelineError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise
from .error import error, powers, step
from .factors import Observer
from .layers import constant, rewrite
from .sites import Site, sites

_aten = torch.ops.aten
_CHANCE = 0.2
"""Decibels that noise has to gain: less may be the luck of the rows."""


@dataclass(frozen=True)
class NoisyBias(Pass):
    """Move each channel by a number that is drawn once, so that values between two steps do not all round alike (NoisyQuant, M195).

    The numbers are uniform, as wide as the quantised results of the layers want on rows of calibration data, no noise among the
    choices. They go into a normalisation's shift, the bias of a linear layer before, moved or through attention, or the table
    of an elementwise function; others take none: in front of an addition of its own a value would have been rounded already.

    Options:
        amplitudes: widths that are tried, in steps of the value's grid.
        tables: change elementwise functions too; tables by channel hold channels times 256 bytes.
        activation_bits, weight_bits: in that comparison.
    """

    name: ClassVar[str] = "noisy-bias"
    promise: ClassVar[Promise] = Close(1e-4, "noise that cancels is rounded")
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants", "equalize", "rotate")
    needs: ClassVar[tuple[str, ...]] = (
        *("remove-noops", "fold-positions", "compose-linear", "compose-rms-norm"),
        *("decompose-unflatten", "decompose-roll", "decompose-attention"),
    )
    amplitudes: tuple[float, ...] = (0.25, 0.5, 1.0)
    tables: bool = True
    activation_bits: int = 8
    weight_bits: int = 8

    def __post_init__(self) -> None:
        if not all(amplitude > 0 for amplitude in self.amplitudes):
            raise PipelineError(f"amplitudes={list(self.amplitudes)}", where=self.name, way_on="positive numbers; none is tried anyway")
        for option in ("activation_bits", "weight_bits"):
            if not 2 <= getattr(self, option) <= 16:
                raise PipelineError(f"{option}={getattr(self, option)}", where=self.name, way_on="2 to 16")

    def apply(self, program: Program, context: Context) -> Program:
        found = self._found(program, context)
        if not found:
            return program
        observer = Observer(program, frozenset(site.value.name for site in found))
        for batch in context.evidence.calibration.batches(program):
            observer.observe(batch)
        generator = torch.Generator().manual_seed(context.seed)
        edit, changed = program.edit(), False
        for site in found:
            noise = self._best(program, site, observer.found[site.value.name].rows, generator)
            if noise is not None:
                _add(edit, site, noise)
                changed = True
        return edit.finish() if changed else program

    def _found(self, program: Program, context: Context) -> list[Site]:
        """The values that a constant may be added to."""
        found: list[Site] = []
        for site in sites(program):
            first = site.readers[0] if isinstance(site, Site) else site[0]
            if is_hadamard(_weight(program, first)):
                continue  # what a rotation reads keeps 16 bits
            if not isinstance(site, Site) or not site.shifts:
                source: fx.Node = arguments(first)["input"]
                what = source.target if source.op == "call_function" else "outside"
                context.refuse(first, f"its input comes from {what}, which takes no constant")
            elif site.kind == "table" and not self.tables:
                context.refuse(site.producer, "its table would differ by channel", "say tables=true")
            else:
                found.append(site)
        return found

    def _best(self, program: Program, site: Site, rows: Tensor, generator: torch.Generator) -> Tensor | None:
        """The noise under which the error is smallest, float32 [channels]; None where none gains what chance may."""
        weights = [_weight(program, reader) for reader in site.readers]
        scales = powers(rows, weights)
        size = rows.shape[-1] if site.rows is None else int(site.rows.max()) + 1
        drawn = torch.rand(size, generator=generator) * 2 - 1
        unit = (drawn if site.rows is None else drawn[site.rows]) * step(rows, self.activation_bits)

        def measured(noise: Tensor | float) -> float:
            return error(rows + noise, weights, scales, self.activation_bits, self.weight_bits)

        tried = [(measured(unit * amplitude), amplitude) for amplitude in self.amplitudes]
        after, amplitude = min(tried, default=(float("inf"), 0.0))
        return unit * amplitude if after < measured(0.0) * 10 ** (-_CHANCE / 10) else None


def _weight(program: Program, layer: fx.Node) -> Tensor:
    return program.tensors[str(arguments(layer)["weight"].target)].detach()


def _add(edit: Edit, site: Site, noise: Tensor) -> None:
    """The noise where the value is computed, and what layers make of it off their biases."""
    value = edit.here(site.value)
    for reader in site.readers:
        rewrite(edit, edit.here(reader), lambda w, b: (w, b - w @ noise.double()))
    if site.kind == "rows":
        assert site.rows is not None
        of_rows = torch.zeros(len(arguments(site.producer)["weight"].meta["val"]), dtype=torch.float64)
        of_rows[site.rows] = noise.double()
        rewrite(edit, edit.here(site.producer), lambda w, b: (w, b + of_rows))
        return
    with edit.graph.inserting_after(value):
        if site.kind == "norm":
            named = arguments(value)
            shift = noise if named["bias"] is None else edit.tensor(named["bias"]).detach() + noise
            bias = constant(edit, value, f"{value.name}.shift", shift)
            gain = named["weight"] or constant(edit, value, f"{value.name}.gain", torch.ones_like(noise))
            moved = edit.call(value.target, named["input"], named["normalized_shape"], gain, bias, named["eps"], like=value)  # type: ignore[arg-type]
        else:
            moved = edit.call(_aten.add.Tensor, value, constant(edit, value, f"{value.name}.noise", noise), like=value)
    for reader in site.readers:
        edit.here(reader).replace_input_with(value, moved)
