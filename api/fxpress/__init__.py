"""fxpress: a compression compiler for PyTorch. ``import fxpress as fx`` is the whole public face."""

from __future__ import annotations

import fxpress_passes as passes
from fxpress_backends.artifact import Artifact, load, lower
from fxpress_backends.bench import bench
from fxpress_backends.registry import targets
from fxpress_ir import FxpressError, Program, capture, verify
from fxpress_ir.analysis.saturation import saturation
from fxpress_passes import PASSES
from fxpress_passes.evidence import merge_calibration
from fxpress_passes.evidence.distilled import distill
from fxpress_passes.fuse.stitch import stitch
from fxpress_passes.pipeline import Pipeline, Result
from torch.export import Dim

from . import zoo
from .latency import latency_on
from .quality import Agreement, agreement

__version__ = "0.1.0"

__all__ = [
    "PASSES",
    "Agreement",
    "Artifact",
    "Dim",
    "FxpressError",
    "Pipeline",
    "Program",
    "Result",
    "agreement",
    "bench",
    "capture",
    "distill",
    "latency_on",
    "load",
    "lower",
    "merge_calibration",
    "passes",
    "saturation",
    "stitch",
    "targets",
    "verify",
    "zoo",
]
