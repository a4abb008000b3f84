"""A layer of the base ==> the function from a weight and a bias to its results, on inputs that stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..observed import Observed
from .layer import Layer
from .sites import ROLES, Site

_INPUTS, _SEED = 8, 0
Run = Callable[[Tensor, Tensor | None], Tensor]
"""A weight [out, in] and a bias [out] ==> results, all in float64."""


def calibrated(site: Site, layer: Layer, observed: Observed) -> Run | None:
    """The layer's own operator on what it reads in the first calibration batch, 8 samples at most.

    None without calibration data, where what it reads was not kept, and for bare parameters, which any operator may read.
    """
    if site.role == "parameter":
        return None
    call = site.calls[0]
    _, weight_name, bias_name = ROLES[call.target]
    others = {name: value for name, value in arguments(call).items() if name not in (weight_name, bias_name)}
    values: dict[fx.Node, Tensor | None] = {}
    map_arg(others, lambda node: values.setdefault(node, _value(node, layer, observed)))
    if any(value is None for value in values.values()):
        return None

    def run(weight: Tensor, bias: Tensor | None) -> Tensor:
        given: dict[str, Any] = {weight_name: weight.double().T if site.transposed else weight.double()}
        if bias_name is not None:
            given[bias_name] = None if bias is None else bias.double()
            if bias is None and bias_name == "self":  # addmm has no form without one
                given[bias_name] = torch.zeros(len(weight), dtype=torch.float64)
        result: Tensor = call.target(**map_arg(others, lambda node: values[node]), **given)  # type: ignore[operator]
        return result

    return run


def _value(node: fx.Node, layer: Layer, observed: Observed) -> Tensor | None:
    """In float64; of what is no constant the first samples, where a dimension of samples stands before those of the layer."""
    if node.op == "get_attr":
        found: Tensor | None = observed.program.tensors[str(node.target)].detach()
    else:
        found = observed.of(node)
        found = found[:_INPUTS] if found is not None and found.dim() >= max(2, layer.weight.dim()) else found
    return found.double() if found is not None and found.is_floating_point() else found


def drawn(site: Site, layer: Layer) -> Run:
    """On random rows and windows; of tables and parameters the values themselves."""
    width = layer.weight.shape[0] if site.role == "scale" else layer.matrix.shape[1]
    x = torch.randn(width, _INPUTS, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)

    def run(weight: Tensor, bias: Tensor | None) -> Tensor:
        if site.role not in ("linear", "conv", "scale"):
            return weight.double()
        result = weight.double().reshape(-1, 1) * x if site.role == "scale" else weight.double().flatten(1) @ x
        return result if bias is None else result + bias.double().reshape(-1, 1)

    return run
