"""attention of h heads ==> attention of fewer: whole heads leave, with grouped queries a key's head with all its queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .structured import Structured


@dataclass(frozen=True)
class PruneHeads(Structured):
    """Remove heads of attention (Michel et al. 2019); with grouped queries an atom is a group, and the groups stay alike.

    Options:
        ratio, align, scope, score, macs, parameters, time, loss, latency, plan: as of `prune-channels`; `align` counts entries of
            what heads are cut from, so a head of 16 is aligned to 8 and 16 by itself.

    Raises:
        PassError, CalibrationError, ProgramError: as `prune-channels`.
    """

    name: ClassVar[str] = "prune-heads"
    kind: ClassVar[str] = "heads"
    ratio: float = 0.25
