"""a stream of d features that norms count ==> one of fewer: embeddings, norms, and every layer that reads or writes it shrink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contract import Lossy, Promise
from .structured import Structured


@dataclass(frozen=True)
class PruneWidth(Structured):
    """Remove features of the residual stream (d_model of a transformer, Minitron's embedding channels, M25).

    Statistics of layer and RMS norms are those of the features that stay, so this moves outputs more than the same share of
    hidden units: it is meant to be followed by training.

    Options:
        ratio, align, scope, score, macs, parameters, time, loss, latency, plan: as of `prune-channels`. ``activation`` measures
            behind the norms; ``taylor``, ``fisher`` and ``trajectory`` do not see that the norms count fewer features.

    Raises:
        PassError, CalibrationError, ProgramError: as `prune-channels`.
    """

    name: ClassVar[str] = "prune-width"
    kind: ClassVar[str] = "width"
    promise: ClassVar[Promise] = Lossy(-3.0)
    """Below it outputs have no more to do with those of before than noise of their size."""
    ratio: float = 0.25
