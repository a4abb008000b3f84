"""How much each weight matters: one file a score, and the one list of them."""

from __future__ import annotations

from .facts import Facts, Score
from .fisher import fisher
from .gblm import gblm
from .magnitude import magnitude
from .random import random
from .taylor import taylor
from .wanda import wanda

SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "random": random,
    "wanda": wanda,
    "gblm": gblm,
    "taylor": taylor,
    "fisher": fisher,
}
"""Every score, by its name as users write it."""

__all__ = ["SCORES", "Facts", "Score"]
