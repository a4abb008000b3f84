"""The error of the layer's results on calibration data: ||(W - W_r) X||, through the second moment of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from fxpress_ir import Program

from ...contract import Context
from ...evidence import SecondMoment
from ...evidence.gradients import Loss
from ...evidence.second_moments import moment_key, unmeasured
from ...low_rank.lens import Lens
from ..layers import Layer


def activations(program: Program, layers: Sequence[Layer], context: Context, loss: Loss | None) -> dict[str, Lens]:
    """W C^(1/2) with C = E[x x^T] (as SVD-LLM, Wang et al. 2024, and EoRA, Liu et al. 2024); several readers' inputs count together."""
    found = {}
    for layer in layers:
        reason = unmeasured(layer.nodes[0])
        if reason is not None:
            context.refuse(layer.nodes[0], reason, "metric=plain needs none")
            continue
        moments = context.evidence.second_moments(program)
        joined = reduce(SecondMoment.merge, [moments[moment_key(node)] for node in layer.nodes])
        moment = torch.from_numpy(joined.moment)
        if bool(moment.isfinite().all()):
            found[layer.name] = Lens(moment=moment)
        else:
            context.refuse(layer.nodes[0], "its input is NaN or infinite on calibration data", "check the model and the data")
    return found
