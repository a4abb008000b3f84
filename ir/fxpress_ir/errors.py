"""Every exception of the project: what went wrong, where, and the way on, in one line."""

from __future__ import annotations

from collections.abc import Mapping


class FxpressError(Exception):
    """Base of all errors that a user can cause or see.

    ``str(error)`` is one line, ``where: what; way on``. Graphs and long listings go into notes (``add_note``).
    """

    def __init__(self, what: str, *, where: str = "", way_on: str = "") -> None:
        self.what, self.where, self.way_on = (" ".join(part.split()) for part in (what, where, way_on))
        line = f"{self.where}: {self.what}" if self.where else self.what
        super().__init__(f"{line}; {self.way_on}" if self.way_on else line)


class CaptureError(FxpressError):
    """The model cannot be captured as a graph of ATen operators."""


class ProgramError(FxpressError):
    """A Program is malformed, or was changed behind its back."""


class InputError(FxpressError):
    """A tensor given to a program, an artifact or calibration has the wrong count, shape, dtype or values."""


class VerifyError(FxpressError):
    """A rule of the program's stage is broken; the message names the first, notes list the rest."""


class CalibrationError(FxpressError):
    """Calibration data are missing, empty or unusable."""


class PipelineError(FxpressError):
    """A pipeline names an unknown pass or option, or orders its passes wrongly."""


class PassError(FxpressError):
    """A pass cannot do what it was asked to do."""


class InfeasibleError(PassError):
    """No choice holds all budgets.

    Attributes:
        binding: resources whose budgets no answer holds, each by itself or all of them together.
        nearest: for each resource that has to give way, the value at which all can be held together.
    """

    def __init__(
        self, what: str, *, where: str = "", way_on: str = "", binding: tuple[str, ...] = (), nearest: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(what, where=where, way_on=way_on)
        self.binding, self.nearest = binding, dict(nearest or {})


class RefusalError(PassError):
    """A refusal that was declared an error (``integer_only=True``)."""


class BackendError(FxpressError):
    """A target is unknown or cannot take the program."""


class ArtifactError(FxpressError):
    """An artifact folder cannot be written, is damaged or was tampered with."""


class BenchError(FxpressError):
    """A contender of a benchmark failed or was set up wrongly."""
