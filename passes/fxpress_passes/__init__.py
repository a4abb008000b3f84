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
from .recover.correct_bias import CorrectBias
from .recover.reestimate_batch_norm import ReestimateBatchNorm

PASSES: tuple[type[Pass], ...] = (
    RemoveNoops,
    FoldConstants,
    EliminateDeadCode,
    ReestimateBatchNorm,
    FoldBatchNorm,
    PlaceQuantizers,
    CorrectBias,
    ToInteger,
    QuantizeDyadic,
)
"""Every pass, in the usual order: the one list that the command line, the documentation and the tests read."""

__all__ = [
    "PASSES",
    "Close",
    "Context",
    "CorrectBias",
    "EliminateDeadCode",
    "Exact",
    "FoldBatchNorm",
    "FoldConstants",
    "Lossy",
    "Pass",
    "PlaceQuantizers",
    "Promise",
    "QuantizeDyadic",
    "ReestimateBatchNorm",
    "Refused",
    "RemoveNoops",
    "ToInteger",
]
