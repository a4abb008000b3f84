"""Ways to write a layer as thinner ones; a new one is a file beside these and its row here."""

from __future__ import annotations

from .channel import Channel
from .piece import Decomposition, Piece, Rung
from .spatial import Spatial
from .tucker import Tucker

__all__ = ["DECOMPOSITIONS", "Decomposition", "Piece", "Rung"]

DECOMPOSITIONS: dict[str, type[Decomposition]] = {kind.name: kind for kind in (Channel, Spatial, Tucker)}
"""By the name that plans and options use."""
