"""What the error of a weight is measured by; a new metric is a file beside these and its row here."""

from __future__ import annotations

from .activations import activations
from .fisher import fisher
from .metric import Metric
from .plain import plain

__all__ = ["METRICS", "Metric"]

METRICS: dict[str, Metric] = {"plain": plain, "activations": activations, "fisher": fisher}
"""By the name that options use."""
