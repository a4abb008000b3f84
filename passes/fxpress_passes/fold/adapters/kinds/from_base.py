"""W' = f(W, adapter): parts of the base's own decompositions are replaced (OSF, FRoD, DEFT, LoLDU, Hydra), or it is read (PEANuT)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..layer import Folded, Kind, Layer

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": functional.leaky_relu,
    "linear": lambda x: x,
}


def _osf(layer: Layer) -> Folded:
    """The part of the base's singular values that was trained is replaced by U_low diag(S_low) V_low."""
    layer.only("linear")
    (outputs, inputs), count = layer.weight.shape, len(layer["osf_svd_params.S_low"])
    shapes = {"U_low": (outputs, count), "S_low": (count,), "V_low": (count, inputs)}
    low = [layer.sized(f"osf_svd_params.{name}", *shape) for name, shape in shapes.items()]
    u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
    kept = len(s) - len(low[1])
    return layer.becomes((u[:, :kept] * s[:kept]) @ v[:kept] + layer.fitting((low[0] * low[1]) @ low[2]), layer.bias)


def _frod(layer: Layer) -> Folded:
    """U (S + diag(l)) V^T with V common to layers of one name and U the directions of the columns of W V^-T."""
    layer.only("linear")
    flat = layer.path.replace(".", "_")
    named = [name.removeprefix("frod_V.") for name in layer.shared if name.startswith("frod_V.")]
    fitting = sorted((name for name in named if flat.endswith(name)), key=len)
    if not fitting:
        raise layer.error("frod_V is not in the folder", "save it with save_projection=True")
    v, places = layer[f"frod_V.{fitting[-1]}"], layer[f"frod_s_indices.{fitting[-1]}"].long()
    turned = torch.linalg.solve(v, layer.weight.T).T
    norms = turned.norm(dim=0)
    u = torch.where(norms > 1e-12, turned / norms.clamp_min(1e-12), 0.0)
    inner = torch.diag(layer.flat("frod_lambda_l", len(v)))
    inner = inner.index_put((places[0], places[1]), layer.flat("frod_lambda_s_values", places.shape[1]), accumulate=True)
    return layer.becomes(u @ inner @ v.T, layer.bias)


def _deft(layer: Layer) -> Folded:
    """W - Q P^T W + s Q R, with P = Q from a decomposition, or relu on one side."""
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    p = layer.sized("deft_P", outputs, min(layer.option("r"), outputs))
    q = torch.linalg.qr(p)[0] if layer.option("decomposition_method") == "qr" else p
    right = q if layer.option("decomposition_method") == "qr" else p.relu()
    folded = layer.weight - q @ (right.T @ layer.weight)
    if not layer.option("para", False):
        alpha = layer.option("alpha", None)
        folded = folded + q @ layer.sized("deft_R", p.shape[1], inputs) * (alpha / p.shape[1] if alpha else 1.0)
    return layer.becomes(folded, layer.bias)


def _peanut(layer: Layer) -> Folded:
    """W + s g(W): g is a network of the columns of W, and the base is constant."""
    layer.only("linear")
    if layer.option("act_fn") not in _ACTIVATIONS:
        raise layer.error(f"the activation {layer.option('act_fn')} has no formula here", "merge it with PEFT")
    activation, depth = _ACTIVATIONS[layer.option("act_fn")], layer.option("depth", 0)
    rank, outputs = layer.option("r"), len(layer.weight)
    value = activation(layer.weight.T @ layer.sized("peanut_A.weight", rank, outputs).T)
    before: list[Tensor] = []
    for at in range(depth):
        before.append(value)
        value = activation(value @ layer.sized(f"peanut_encoders.{at}.weight", rank, rank).T)
    for at in range(depth):
        value = activation(value @ layer.sized(f"peanut_decoders.{at}.weight", rank, rank).T) + before.pop()
    return layer.plus((value @ layer.sized("peanut_B.weight", outputs, rank).T).T * layer.option("scaling"))


def _loldu(layer: Layer) -> Folded:
    """W - s0 P L_r D_r U_r + s P L_r diag(z) U_r, where W = P L D U with partial pivoting and s0 is the scale at the beginning (M269)."""
    layer.only("linear")
    z, scale = layer["loldu_z"].flatten(), layer.flat("loldu_sigma", 1)
    p, lower, upper = torch.linalg.lu(layer.weight)
    rank = len(z)
    diagonal = upper.diagonal()[:rank]
    if rank > len(upper) or bool((diagonal == 0).any()):
        what = f"the base has no L D U decomposition with {rank} pivots that are not 0"
        raise layer.error(what, "fold it onto the base that it was trained on")
    left, right = p @ lower[:, :rank], upper[:rank] / diagonal.reshape(-1, 1)
    return layer.plus((left * (scale * z - layer.option("sigma", 1.0) * diagonal)) @ right)


def _hydra(layer: Layer) -> Folded:
    """A parallel branch and one behind the layer, each with the biases of its factors (M268)."""
    layer.only("linear")
    scale, weight, bias = layer.option("scale", 1.0), layer.weight, layer.bias_or_zero

    def branch(name: str, outer: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        a, b = layer.get(f"hydra_{name}_A.weight"), layer.get(f"hydra_{name}_B.weight")
        if a is None or b is None:
            return torch.zeros_like(weight), torch.zeros_like(bias)
        first, last = layer.get(f"hydra_{name}_A.bias"), layer.get(f"hydra_{name}_B.bias")
        inner = a @ start if first is None else a @ start + first
        return scale * b @ a @ outer, scale * (b @ inner if last is None else b @ inner + last)

    inputs = torch.eye(weight.shape[1], dtype=torch.float64)
    parts = [branch("parallel", inputs, weight.new_zeros(weight.shape[1])), branch("sequential", weight, bias)]
    moved = sum((part[1] for part in parts), bias)
    return layer.becomes(weight + parts[0][0] + parts[1][0], None if layer.bias is None and not moved.any() else moved)


KINDS = {
    "OSF": Kind(_osf, ("osf_",), "PEFT tuners/osf/layer.py", additive=False),
    "FROD": Kind(_frod, ("frod_",), "PEFT tuners/frod/layer.py", additive=False),
    "DEFT": Kind(_deft, ("deft_",), "PEFT tuners/deft/layer.py", additive=False),
    "PEANUT": Kind(_peanut, ("peanut_",), "PEFT tuners/peanut/layer.py"),
    "LOLDU": Kind(_loldu, ("loldu_",), "M269", additive=False),
    "HYDRA": Kind(_hydra, ("hydra_",), "M268", additive=False),
}
