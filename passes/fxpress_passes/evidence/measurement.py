"""What is measured of a program batch by batch: its kind, what was asked beyond the program, and how it begins or goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol

from fxpress_ir import Program

from .calibration import Batch, Calibration
from .ranges import Fact


class Measuring(Protocol[Fact]):
    """Merges what each batch shows into what was seen before; `found` is replaced when a batch is whole, never changed."""

    found: Mapping[str, Fact]

    def observe(self, batch: Batch) -> None: ...


@dataclass(frozen=True)
class Measurement(Generic[Fact]):
    """One question.

    Attributes:
        kind: of facts, as `State` has it.
        begin: the program, and facts of the batches before.
        question: all that the facts depend on beside the program and the data, in one line; empty for none.
        most: batches that are looked at; None for all.
    """

    kind: str
    begin: Callable[[Program, Mapping[str, Fact]], Measuring[Fact]]
    question: str = ""
    most: int | None = None

    def batches(self, program: Program, calibration: Calibration) -> Iterator[Batch]:
        """Those that are looked at."""
        return islice(calibration.batches(program), self.most)
