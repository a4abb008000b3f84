"""How much each atom of a group matters: one file a score, and the one list of them."""

from __future__ import annotations

from .activation import activation
from .context import Asked, Importance
from .gradient import fisher, taylor
from .magnitude import magnitude
from .order import order
from .random import random
from .trajectory import trajectory

IMPORTANCES: dict[str, Importance] = {
    "magnitude": magnitude,
    "activation": activation,
    "taylor": taylor,
    "fisher": fisher,
    "trajectory": trajectory,
    "order": order,
    "random": random,
}
"""Every score, by its name as users write it."""
COMPARABLE = frozenset({"taylor", "fisher", "trajectory", "random"})
"""Scores in the loss's units, or in none: those of different groups compare as they are."""

__all__ = ["COMPARABLE", "IMPORTANCES", "Asked", "Importance"]
