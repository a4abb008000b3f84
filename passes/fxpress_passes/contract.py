"""Pass: Program in, Program out, under a promise about numbers. The same object back means that nothing was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from torch import Tensor, fx

if TYPE_CHECKING:
    from .evidence import Evidence
    from .latency import Latency


@dataclass(frozen=True)
class Difference:
    """How far a program's outputs are from another's on the same inputs.

    Attributes:
        equal: same dtypes and bits; -0 is not 0.
        relative: max abs difference over max abs finite value of the original, the larger of all outputs.
        sqnr: signal to quantisation-noise ratio in dB over all outputs; infinite where nothing differs.
    """

    equal: bool
    relative: float
    sqnr: float


def difference(original: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Difference:
    """Compare outputs of equal shapes; integers are compared as numbers, NaN with NaN and infinities of one sign are equal."""
    equal = all(map(_same_bits, original, other))
    pairs = [(a.double().reshape(-1), b.double().reshape(-1)) for a, b in zip(original, other, strict=True) if a.numel()]
    values = [a.where(a.isfinite(), 0.0) for a, _ in pairs]
    gaps = [(a - b).where((a != b) & ~(a.isnan() & b.isnan()), 0.0) for a, b in pairs]
    relative = max((float(gap.abs().max() / a.abs().max().clamp_min(1e-30)) for a, gap in zip(values, gaps, strict=True)), default=0.0)
    signal, noise = (sum(float(part.square().sum()) for part in parts) for parts in (values, gaps))
    sqnr = float("inf") if noise == 0 else float(10 * torch.log10(torch.tensor(signal / noise, dtype=torch.float64)))
    return Difference(equal, relative, sqnr)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and torch.equal(*raw)


@dataclass(frozen=True)
class Exact:
    """Same bits at equal batch and threads."""

    def held(self, found: Difference) -> bool:
        return found.equal

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class Close:
    """Algebraically equal: max abs difference <= rtol * max abs value."""

    rtol: float
    why: str

    def held(self, found: Difference) -> bool:
        return found.relative <= self.rtol

    def __str__(self) -> str:
        return f"close {self.rtol:g} ({self.why})"


@dataclass(frozen=True)
class Lossy:
    """Changes the function; measured against a floor of the signal to noise ratio in dB."""

    floor: float

    def held(self, found: Difference) -> bool:
        return found.sqnr >= self.floor

    def __str__(self) -> str:
        return f"lossy, at least {self.floor:g} dB"


Promise = Exact | Close | Lossy
ANOTHER = Lossy(float("-inf"))
"""Of a pass that is there to bring another function, such as an adapter's: what follows it is held to that one."""


@dataclass(frozen=True)
class Refused:
    """Why a pass left a node alone: the node, the reason, the way on."""

    node: str
    reason: str
    way_on: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" + (f"; {self.way_on}" if self.way_on else "")


@dataclass
class Context:
    """What a pass may ask for beside the program: evidence from calibration data, the seed, a place for refusals.

    Attributes:
        original: the program that the pipeline began with, or what the last pass made that brings another function (`ANOTHER`); None
            outside of a pipeline.
        notes: facts that the report shows, each a frozen value that prints in one line.
        losses: of each pass of this run so far that `loses` weights, the program before it and the one after it.
        progress: told of steps of work that takes long; None where nobody listens.
        latency: what passes that make programs smaller ask whether that made them faster; None where nothing is measured.
        later: names of the passes that follow in the pipeline; None outside of one.
    """

    calibrated: Evidence | None = None
    seed: int = 0
    refusals: list[Refused] = field(default_factory=list)
    notes: list[object] = field(default_factory=list)
    original: Program | None = None
    losses: tuple[tuple[Program, Program], ...] = ()
    progress: Progress | None = None
    latency: Latency | None = None
    later: tuple[str, ...] | None = None

    @property
    def evidence(self) -> Evidence:
        """Facts measured on calibration data.

        Raises:
            CalibrationError: the pipeline was run without calibration data.
        """
        if self.calibrated is None:
            raise CalibrationError("this pass needs calibration data", way_on="give Pipeline.run calibration=batches")
        return self.calibrated

    def refuse(self, node: fx.Node, reason: str, way_on: str = "") -> None:
        self.refusals.append(Refused(node.name, reason, way_on))

    def note(self, fact: object) -> None:
        self.notes.append(fact)


@dataclass(frozen=True)
class Pass:
    """Base of every pass. Subclasses are frozen dataclasses whose fields are their options.

    Class attributes:
        name: as users write it, ``fold-batch-norm``.
        promise: what it promises about numbers.
        takes: the stages that it accepts.
        gives: the stage of its result, None where that stays; ``integer`` allows ``mixed``, which is integer with float islands.
        after: names of passes that must not come later than this one.
        needs: names of passes that the pipeline inserts before this one where they are missing.
        loses: weights become others of the same shape in it, and a later pass may make up for that: the pipeline keeps what came in.
    """

    name: ClassVar[str]
    promise: ClassVar[Promise]
    takes: ClassVar[tuple[str, ...]] = ("float",)
    gives: ClassVar[str | None] = None
    after: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    loses: ClassVar[bool] = False

    def apply(self, program: Program, context: Context) -> Program:
        """The changed program, or `program` itself."""
        raise TypeError(f"{type(self).__name__} does not define apply")

    def parts(self) -> tuple[Pass, ...]:
        """The passes that this one is the sum of; itself where it is not a sum."""
        return (self,)

    def __str__(self) -> str:
        changed = [(name, getattr(self, name)) for name, default in options_of(type(self)).items() if getattr(self, name) != default]
        options = ", ".join(f"{name}={json.dumps(value)}" for name, value in changed)
        return f"{self.name}{{{options}}}" if options else self.name


Progress = Callable[[str, int, int], None]
"""Called with a label, steps done and steps in all, 0 where that is not known."""


GIVEN = "given in Python"
"""The key in a field's metadata that marks an option as an object, such as a function, which no text can name."""


def options_of(kind: type[Pass]) -> dict[str, Any]:
    """The options of a pass and their defaults, in order, without those that only Python can give."""
    return {option.name: option.default for option in fields(kind) if GIVEN not in option.metadata}
