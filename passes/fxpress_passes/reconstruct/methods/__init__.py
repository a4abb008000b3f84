"""How a layer's integers are chosen: one file a method, and the one list of them."""

from __future__ import annotations

from .adaquant import AdaQuant
from .adaround import AdaRound
from .bias import Bias
from .flexround import FlexRound
from .gptq import Gptq
from .statistics import Statistics
from .task import Method

METHODS: dict[str, Method] = {method.name: method for method in (AdaQuant(), AdaRound(), FlexRound(), Gptq(), Statistics(), Bias())}
"""Every method, by its name as users write it."""

__all__ = ["METHODS", "Method"]
