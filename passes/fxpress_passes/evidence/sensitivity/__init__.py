"""How much each choice costs, before it is made: measures by name. One more is one more file and one more line here."""

from __future__ import annotations

from collections.abc import Mapping

from .asked import Asked, Measure, Perturbation
from .curvature import eigenvalue, fisher, hessian_trace, taylor, weight_error
from .interaction import interactions
from .masked import masked
from .measured import distance, noise
from .superposed import superposed

MEASURES: Mapping[str, Measure] = {
    "distance": distance,
    "noise": noise,
    "hessian-trace": hessian_trace,
    "eigenvalue": eigenvalue,
    "fisher": fisher,
    "taylor": taylor,
    "masked": masked,
    "weight-error": weight_error,
}

__all__ = ["MEASURES", "Asked", "Measure", "Perturbation", "interactions", "superposed"]
