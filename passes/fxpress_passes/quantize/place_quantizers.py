"""float program ==> the same with ``fxp::fake_quantize`` at every quantised edge and weight, scales already snapped."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar

from fxpress_ir import Program
from fxpress_ir.errors import PassError
from torch import fx

from ..contract import Context, Lossy, Pass, Promise
from .decision import Placement
from .placing import Placing, check_choice, place
from .precision import WEIGHT_BITS, Precision, precisions, weighted_layers
from .recognize import Recognition

__all__ = ["PlaceQuantizers", "Placement", "place"]


@dataclass(frozen=True)
class PlaceQuantizers(Pass):
    """Decide where and how finely to quantise (catalogue row M213, HAWQ-V3), and insert the quantisers.

    Activations with zero point 0: u8 where no value can be negative, s8 elsewhere, or s16; symmetric weights per output
    channel; the last layer in 16 bits, and what normalisations and the residual sums between them read. Values that meet in a
    concatenation share a scale. HAWQ-V3 approximates the multipliers; here the scales are snapped, so that they are dyadic
    exactly.

    Options:
        weight_bits: 2 to 8.
        activation_bits: 8 or 16. 16-bit values take as many codes, at least 256, as the 32-bit sums of their readers allow.
        edge_bits: bits of the first and the last weighted layer's weights.
        ranges: of activations, ``minmax``, ``percentile``, ``mse`` or ``entropy`` on calibration data.
        border_ranges: the same for inputs and outputs.
        percentile: share of values that the range covers, in percent, for ``percentile``.
        input_floor: in dB; a layer whose result the rounding of its input to 8 bits alone would leave below it reads 16, at about
            twice its time (of pretrained MiniLM-L6 those around GELU; none of most networks). 0 leaves all layers 8 bits.
        integer_only: refuse a program that needs float islands.
        bits: of single layers by their nodes' names, which go before `weight_bits`, `activation_bits` and `edge_bits`:
            ``["fc1=w4", "fc2=w8a16"]``, as `allocate-bits` finds them.
    """

    name: ClassVar[str] = "place-quantizers"
    promise: ClassVar[Promise] = Lossy(15.0)
    gives: ClassVar[str | None] = "simulated"
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fold-constants", "fold-positions")
    needs: ClassVar[tuple[str, ...]] = (
        *("remove-noops", "remove-empty", "fold-constants", "fold-positions", "compose-linear", "compose-rms-norm", "decompose-index"),
        *("decompose-unflatten", "decompose-roll", "decompose-pool1d", "decompose-attention", "compose-masks", "separate-masks"),
    )
    weight_bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    ranges: str = "minmax"
    border_ranges: str = "minmax"
    percentile: float = 99.99
    input_floor: float = 25.0
    integer_only: bool = False
    bits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in ("weight_bits", "edge_bits"):
            check_choice(option, getattr(self, option), WEIGHT_BITS, self.name)
        precisions(self.bits, self.name)
        self._placing()

    def apply(self, program: Program, context: Context) -> Program:
        return place(program, self.decide(program, context))

    def decide(self, program: Program, context: Context) -> Placement:
        """The plan for a program.

        Raises:
            RefusalError: an operator has no integer form, with `integer_only`.
            PassError: an output's range is too small for its layer's weights and inputs; `bits` names what is no layer.
            CalibrationError: no usable calibration data.
        """
        return self._placing().decide(program, context, self._precisions)

    def _placing(self) -> Placing:
        return Placing(
            self.name, self.activation_bits, self.ranges, self.border_ranges, self.percentile, self.input_floor, self.integer_only
        )

    def _precisions(self, recognition: Recognition) -> dict[fx.Node, Precision]:
        named, layers = precisions(self.bits, self.name), weighted_layers(recognition)
        for name in named.keys() - layers.keys():
            close = difflib.get_close_matches(name, layers, n=1)
            way_on = f"did you mean {close[0]!r}?" if close else f"its layers are {', '.join(list(layers)[:3])} ..."
            raise PassError(f"bits names {name!r}, which is no layer with weights", where=self.name, way_on=way_on)
        edges = {*list(layers)[:1], *list(layers)[-1:]}
        return {
            node: named.get(name, Precision(self.edge_bits if name in edges else self.weight_bits, self.activation_bits))
            for name, node in layers.items()
        }
