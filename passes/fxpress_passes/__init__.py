"""Program in, Program out: the passes, their contract and the pipeline that runs them."""

from __future__ import annotations

from .contract import Close, Context, Exact, Lossy, Pass, Promise, Refused
from .equalize.equalize import Equalize
from .equalize.fold_first_token import FoldFirstToken
from .equalize.noisy_bias import NoisyBias
from .equalize.power_of_two_factors import PowerOfTwoFactors
from .equalize.rotate import Rotate
from .fold.fold_batch_norm import FoldBatchNorm
from .normalize.compose_linear import ComposeLinear
from .normalize.compose_rms_norm import ComposeRmsNorm
from .normalize.decompose_attention import DecomposeAttention
from .normalize.decompose_index import DecomposeIndex
from .normalize.decompose_pool1d import DecomposePool1d
from .normalize.decompose_roll import DecomposeRoll
from .normalize.decompose_unflatten import DecomposeUnflatten
from .normalize.eliminate_dead_code import EliminateDeadCode
from .normalize.fold_constants import FoldConstants
from .normalize.fold_positions import FoldPositions
from .normalize.remove_noops import RemoveNoops
from .quantize.compose_masks import ComposeMasks
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
    DecomposeIndex,
    DecomposeAttention,
    DecomposeUnflatten,
    DecomposeRoll,
    ReestimateBatchNorm,
    FoldBatchNorm,
    DecomposePool1d,
    FoldFirstToken,
    Equalize,
    Rotate,
    NoisyBias,
    PowerOfTwoFactors,
    ComposeMasks,
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
    "ComposeMasks",
    "ComposeRmsNorm",
    "Context",
    "CorrectBias",
    "DecomposeAttention",
    "DecomposeIndex",
    "DecomposePool1d",
    "DecomposeRoll",
    "DecomposeUnflatten",
    "EliminateDeadCode",
    "Equalize",
    "Exact",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldFirstToken",
    "FoldPositions",
    "Lossy",
    "NoisyBias",
    "Pass",
    "PlaceQuantizers",
    "PowerOfTwoFactors",
    "Promise",
    "QuantizeDyadic",
    "ReestimateBatchNorm",
    "Refused",
    "RemoveNoops",
    "Rotate",
    "SeparateMasks",
    "ToInteger",
]
