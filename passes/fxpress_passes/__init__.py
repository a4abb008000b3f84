"""Program in, Program out: the passes, their contract and the pipeline that runs them."""

from __future__ import annotations

from .contract import Close, Context, Exact, Lossy, Pass, Promise, Refused
from .fold.fold_batch_norm import FoldBatchNorm
from .normalize.eliminate_dead_code import EliminateDeadCode
from .normalize.fold_constants import FoldConstants
from .normalize.remove_noops import RemoveNoops
from .quantize.place_quantizers import PlaceQuantizers
from .quantize.quantize_dyadic import QuantizeDyadic
from .quantize.to_integer import ToInteger

PASSES: tuple[type[Pass], ...] = (
    RemoveNoops,
    FoldConstants,
    EliminateDeadCode,
    FoldBatchNorm,
    PlaceQuantizers,
    ToInteger,
    QuantizeDyadic,
)
"""Every pass, in the usual order: the one list that the command line, the documentation and the tests read."""

__all__ = [
    "PASSES",
    "Close",
    "Context",
    "EliminateDeadCode",
    "Exact",
    "FoldBatchNorm",
    "FoldConstants",
    "Lossy",
    "Pass",
    "PlaceQuantizers",
    "Promise",
    "QuantizeDyadic",
    "Refused",
    "RemoveNoops",
    "ToInteger",
]
