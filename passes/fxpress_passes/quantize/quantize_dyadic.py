"""quantize-dyadic = place-quantizers, then to-integer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from fxpress_ir import Program

from ..contract import Context, Lossy, Pass, Promise
from .place_quantizers import PlaceQuantizers
from .to_integer import ToInteger


@dataclass(frozen=True)
class QuantizeDyadic(Pass):
    """Turn a float program into an integer-only one, in one step.

    Options: those of `PlaceQuantizers`, and `io` of `ToInteger`.
    """

    name: ClassVar[str] = "quantize-dyadic"
    promise: ClassVar[Promise] = Lossy(15.0)
    gives: ClassVar[str | None] = "integer"
    weight_bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    ranges: str = "minmax"
    border_ranges: str = "minmax"
    percentile: float = 99.99
    input_floor: float = 25.0
    integer_only: bool = False
    io: str = "float"
    bits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> tuple[Pass, ...]:
        options = {option.name: getattr(self, option.name) for option in fields(PlaceQuantizers)}
        return (PlaceQuantizers(**options), ToInteger(self.io, self.integer_only))

    def apply(self, program: Program, context: Context) -> Program:
        for part in self.parts():
            program = part.apply(program, context)
        return program
