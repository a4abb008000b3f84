"""Program in, Program out: the passes, their contract and the pipeline that runs them."""

from __future__ import annotations

from .contract import Close, Context, Exact, Lossy, Pass, Promise, Refused
from .fold.fold_batch_norm import FoldBatchNorm
from .normalize.compose_linear import ComposeLinear
from .normalize.compose_rms_norm import ComposeRmsNorm
from .normalize.decompose_attention import DecomposeAttention
from .normalize.decompose_pool1d import DecomposePool1d
from .normalize.decompose_roll import DecomposeRoll
from .normalize.decompose_unflatten import DecomposeUnflatten
from .normalize.eliminate_dead_code import EliminateDeadCode
from .normalize.fold_constants import FoldConstants
from .normalize.fold_positions import FoldPositions
from .normalize.remove_noops import RemoveNoops
from .quantize.place_quantizers import PlaceQuantizers
from .quantize.quantize_dyadic import QuantizeDyadic
from .quantize.separate_masks import SeparateMasks
from .quantize.to_integer import ToInteger
from .recover.correct_bias import CorrectBias
from .recover.reestimate_batch_norm import ReestimateBatchNorm

PASSES: tuple[type[Pass], ...] = (
    RemoveNoops,
    FoldConstants,
    EliminateDeadCode,
    FoldPositions,
    ComposeLinear,
    ComposeRmsNorm,
    DecomposeAttention,
    DecomposeUnflatten,
    DecomposeRoll,
    ReestimateBatchNorm,
    FoldBatchNorm,
    DecomposePool1d,
    SeparateMasks,
    PlaceQuantizers,
    CorrectBias,
    ToInteger,
    QuantizeDyadic,
)
"""Every pass, in the usual order: the one list that the command line, the documentation and the tests read."""

__all__ = [
    "PASSES",
    "Close",
    "ComposeLinear",
    "ComposeRmsNorm",
    "Context",
    "CorrectBias",
    "DecomposeAttention",
    "DecomposePool1d",
    "DecomposeRoll",
    "DecomposeUnflatten",
    "EliminateDeadCode",
    "Exact",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldPositions",
    "Lossy",
    "Pass",
    "PlaceQuantizers",
    "Promise",
    "QuantizeDyadic",
    "ReestimateBatchNorm",
    "Refused",
    "RemoveNoops",
    "SeparateMasks",
    "ToInteger",
]
