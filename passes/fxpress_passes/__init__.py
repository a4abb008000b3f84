"""Program in, Program out: the passes, their contract and the pipeline that runs them."""

from __future__ import annotations

from .contract import Close, Context, Exact, Lossy, Pass, Promise, Refused
from .equalize.equalize import Equalize
from .equalize.fold_first_token import FoldFirstToken
from .equalize.noisy_bias import NoisyBias
from .equalize.power_of_two_factors import PowerOfTwoFactors
from .equalize.rotate import Rotate
from .factorize.factorize import Factorize
from .fold.fold_adapters import FoldAdapters
from .fold.fold_batch_norm import FoldBatchNorm
from .fuse.fuse_affine import FuseAffine
from .fuse.fuse_blocks import FuseBlocks
from .fuse.fuse_linear import FuseLinear
from .fuse.fuse_pad import FusePad
from .fuse.fuse_parallel import FuseParallel
from .fuse.fuse_parallel_integer import FuseParallelInteger
from .fuse.share_blocks import ShareBlocks
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
from .normalize.remove_empty import RemoveEmpty
from .normalize.remove_noops import RemoveNoops
from .prune.prune_blocks import PruneBlocks
from .prune.prune_channels import PruneChannels
from .prune.prune_heads import PruneHeads
from .prune.prune_width import PruneWidth
from .prune.sparsify import Sparsify
from .quantize.allocate_bits import AllocateBits
from .quantize.compensate import Compensate
from .quantize.compose_masks import ComposeMasks
from .quantize.place_quantizers import PlaceQuantizers
from .quantize.quantize_dyadic import QuantizeDyadic
from .quantize.separate_masks import SeparateMasks
from .quantize.to_integer import ToInteger
from .reconstruct.reconstruct import Reconstruct
from .recover.correct_bias import CorrectBias
from .recover.recover import Recover
from .recover.reestimate_batch_norm import ReestimateBatchNorm

PASSES: tuple[type[Pass], ...] = (
    RemoveNoops,
    RemoveEmpty,
    FoldConstants,
    EliminateDeadCode,
    FoldPositions,
    ComposeLinear,
    ComposeRmsNorm,
    DecomposeIndex,
    DecomposeAttention,
    DecomposeUnflatten,
    DecomposeRoll,
    FoldAdapters,
    PruneBlocks,
    FuseBlocks,
    ShareBlocks,
    PruneWidth,
    PruneHeads,
    PruneChannels,
    Sparsify,
    Factorize,
    Recover,
    ReestimateBatchNorm,
    FoldBatchNorm,
    FuseAffine,
    FusePad,
    FuseLinear,
    FuseParallel,
    DecomposePool1d,
    FoldFirstToken,
    Equalize,
    Rotate,
    NoisyBias,
    PowerOfTwoFactors,
    ComposeMasks,
    SeparateMasks,
    AllocateBits,
    PlaceQuantizers,
    Reconstruct,
    CorrectBias,
    Compensate,
    ToInteger,
    QuantizeDyadic,
    FuseParallelInteger,
)
"""Every pass, in the usual order: the one list that the command line, the documentation and the tests read."""

__all__ = [
    "PASSES",
    "AllocateBits",
    "Close",
    "Compensate",
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
    "Factorize",
    "FoldAdapters",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldFirstToken",
    "FoldPositions",
    "FuseAffine",
    "FuseLinear",
    "FusePad",
    "FuseBlocks",
    "FuseParallel",
    "FuseParallelInteger",
    "Lossy",
    "NoisyBias",
    "Pass",
    "PlaceQuantizers",
    "PowerOfTwoFactors",
    "Promise",
    "PruneBlocks",
    "PruneChannels",
    "PruneHeads",
    "PruneWidth",
    "QuantizeDyadic",
    "Reconstruct",
    "Recover",
    "ReestimateBatchNorm",
    "Refused",
    "RemoveEmpty",
    "RemoveNoops",
    "Rotate",
    "SeparateMasks",
    "ShareBlocks",
    "Sparsify",
    "ToInteger",
]
