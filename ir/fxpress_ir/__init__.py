"""What a program is: the value, its operators, its rules and its text."""

from __future__ import annotations

from .capture import capture
from .edit import Edit
from .errors import FxpressError
from .printer import text
from .program import Program
from .reals import run_on_reals, to_reals, to_steps
from .signature import Dimension, InputSpec
from .verify import Certificate, verify, violations

__all__ = [
    "Certificate",
    "Dimension",
    "Edit",
    "FxpressError",
    "InputSpec",
    "Program",
    "capture",
    "run_on_reals",
    "text",
    "to_reals",
    "to_steps",
    "verify",
    "violations",
]
