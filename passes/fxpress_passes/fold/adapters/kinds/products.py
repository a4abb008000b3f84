"""W' = W + s of Hadamard and Kronecker products: LoHa, LoKr, HiRA, DiffuseKronA; W' = D W, W D: IA3, SSF, GLoRA, BEFT."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..layer import Folded, Kind, Layer


def _scale(layer: Layer) -> float:
    return float(layer.pattern("alpha_pattern", "alpha") / layer.pattern("rank_pattern", "r"))


def _loha(layer: Layer) -> Folded:
    """s (A1 B1) * (A2 B2); a convolution may have cores of its own window."""
    layer.only("linear", "conv")
    rank, (outputs, inputs) = layer.pattern("rank_pattern", "r"), layer.matrix.shape
    halves = []
    for at in "12":
        if layer.get(f"hada_t{at}") is None:
            halves.append(layer.sized(f"hada_w{at}_a", outputs, rank) @ layer.sized(f"hada_w{at}_b", rank, inputs))
            continue
        window = [*layer.weight.shape[2:], 1][:2]
        core = layer.sized(f"hada_t{at}", rank, rank, *window)
        a, b = layer.sized(f"hada_w{at}_a", rank, outputs), layer.sized(f"hada_w{at}_b", rank, layer.weight.shape[1])
        halves.append(torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    return layer.plus((halves[0] * halves[1] * _scale(layer)).reshape(layer.weight.shape))


def _lokr(layer: Layer) -> Folded:
    """s kron(W1, W2), each whole or in factors (LyCORIS; M301)."""
    layer.only("linear", "conv")
    first, second, core = layer.get("lokr_w1"), layer.get("lokr_w2"), layer.get("lokr_t2")
    if first is None:
        first = layer["lokr_w1_a"] @ layer["lokr_w1_b"]
    if second is None:
        a, b = layer["lokr_w2_a"], layer["lokr_w2_b"]
        second = a @ b if core is None else torch.einsum("ijkl,ip,jr->prkl", core, a, b)
    if second.dim() == 4:  # for three dimensions PEFT leaves the factor a matrix, so its axes count from the last
        first = first.reshape(*first.shape, 1, 1)
    return layer.plus((torch.kron(first, second.contiguous()) * _scale(layer)).reshape(layer.weight.shape))


def _krona(layer: Layer) -> Folded:
    layer.only("linear")
    return layer.plus(layer.option("scale", 1.0) * torch.kron(layer["krona_A"], layer["krona_B"]))


def _hira(layer: Layer) -> Folded:
    """W + W * (B A)."""
    layer.only("linear", "embedding")
    if layer.role == "embedding":
        return layer.plus(layer.weight * layer.fitting((layer["hira_embedding_B"] @ layer["hira_embedding_A"]).T))
    return layer.plus(layer.weight * layer.fitting(layer["hira_B"] @ layer["hira_A"]))


def _ia3(layer: Layer) -> Folded:
    """W diag(l) in feed-forward modules, else diag(l) W and diag(l) b."""
    layer.only("linear", "conv")
    forward = layer.option("feedforward_modules") or []
    if isinstance(forward, str):
        is_forward = re.fullmatch(forward, layer.path) is not None
    else:
        is_forward = any(layer.path.endswith(name) for name in forward)
    outputs, inputs, *window = layer.weight.shape
    ones = [1] * len(window)
    gains = layer.flat("ia3_l", inputs * layer.groups if is_forward else outputs)
    if not is_forward:
        return layer.becomes(layer.weight * gains.reshape(-1, 1, *ones), None if layer.bias is None else layer.bias * gains)
    grouped = layer.weight.reshape(layer.groups, -1, inputs, *window) * gains.reshape(layer.groups, 1, inputs, *ones)
    return layer.becomes(grouped, layer.bias)


def _ssf(layer: Layer) -> Folded:
    """y = g x + d behind a layer (M286): diag(g) W, g b + d."""
    layer.only("linear", "conv", "scale")
    if layer.option("instance_adaptive", False):
        raise layer.error("its scales and shifts are chosen for each input", "they stay in the graph; fold a static set")
    gain, shift = (layer.flat(f"ssf_{name}", len(layer.weight)) for name in ("scale", "shift"))
    return layer.becomes(layer.weight * gain.reshape(-1, *[1] * (layer.weight.dim() - 1)), layer.bias_or_zero * gain + shift)


def _beft(layer: Layer) -> Folded:
    layer.only("linear")
    return layer.becomes(layer.weight, layer.bias_or_zero + layer.flat("beft_bias", len(layer.weight)))


def _glora(layer: Layer) -> Folded:
    """W + W * A + B, b + b * D + E + W C, each path a product, a vector, a number or nothing."""
    layer.only("linear")
    outputs, inputs = layer.weight.shape

    def path(name: str, form: str, *sizes: int) -> Tensor | float:
        layer.get(f"glora_{name}.zeros")
        if form == "lora":
            return layer.sized(f"glora_{name}.Xd", sizes[0], None) @ layer.sized(f"glora_{name}.Xu", None, sizes[1])
        if form == "vector":
            return layer.flat(f"glora_{name}.X", sizes[0]).reshape(-1, *sizes[2:])
        return layer.flat(f"glora_{name}.X", 1) if form == "constant" else 0.0

    gain, shift = (path(name, layer.option("config_A_B"), outputs, inputs, 1) for name in "AB")
    weight = layer.weight + layer.weight * gain + shift
    extra, moved = layer.option("config_D_E"), layer.option("config_C")
    if layer.bias is None:
        extra, moved = "none", "none"  # PEFT makes these paths for layers with a bias alone
    gain, shift = (path(name, extra, outputs, outputs) for name in "DE")
    lean = path("C", moved, inputs, 1, 1)
    if layer.bias is None:
        return layer.becomes(weight, None)
    bias = layer.bias + layer.bias * gain + shift
    return layer.becomes(weight, bias + (layer.weight @ lean).flatten() if isinstance(lean, Tensor) else bias)


KINDS = {
    "LOHA": Kind(_loha, ("hada_",), "PEFT tuners/loha/layer.py"),
    "LOKR": Kind(_lokr, ("lokr_",), "M301; PEFT tuners/lokr/layer.py"),
    "DIFFUSEKRONA": Kind(_krona, ("krona_",), "M301"),
    "HIRA": Kind(_hira, ("hira_",), "PEFT tuners/hira/layer.py", additive=False),
    "IA3": Kind(_ia3, ("ia3_",), "PEFT tuners/ia3/layer.py", additive=False),
    "SSF": Kind(_ssf, ("ssf_",), "M286", additive=False),
    "BEFT": Kind(_beft, ("beft_",), "PEFT tuners/beft/layer.py"),
    "GLORA": Kind(_glora, ("glora_",), "PEFT tuners/glora/layer.py", additive=False),
}
