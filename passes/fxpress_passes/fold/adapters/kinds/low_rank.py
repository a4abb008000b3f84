"""W' = W + c B D A: the low-rank kinds beside LoRA, with their own scales, diagonals and blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layer import Folded, Kind, Layer

_EPSILON = 1e-5
"""PEFT adds it to the number of ranks of AdaLoRA (tuners/adalora/layer.py, SVDLinear.forward)."""
_LEAST_NORM = 1e-4
"""Of DeLoRA's directions (tuners/delora/layer.py, _compute_delta)."""


def _adalora(layer: Layer) -> Folded:
    """alpha / (ranks at the beginning + 1e-5) B diag(e) A; triplets that were pruned are not in the folder."""
    layer.only("linear", "conv")
    outputs, inputs = layer.matrix.shape
    b = layer.sized("lora_B", outputs, None)
    a, e = layer.sized("lora_A", b.shape[1], inputs), layer.sized("lora_E", b.shape[1], 1)
    alpha = layer.option("lora_alpha")
    scale = alpha if alpha > 0 else float(len(e))
    return layer.plus(b @ (a * e) * scale / (layer.option("init_r") + _EPSILON))


def _increlora(layer: Layer) -> Folded:
    """alpha / (ranks + 1e-5) sum of b e a over the list of triplets but the last `reserve`, which wait to be grown (M319)."""
    layer.only("linear")
    count = sum(name.startswith("increlora_E.") for name in layer.tensors)
    outputs, inputs = layer.weight.shape
    shapes = (("A", (None, inputs)), ("E", (None, 1)), ("B", (outputs, None)))
    triplets = [[layer.sized(f"increlora_{part}.{at}", *shape) for part, shape in shapes] for at in range(count)]
    kept = triplets[: count - layer.option("reserve", 0)]
    if not kept:
        raise layer.error("all of its triplets are reserves", "leave the layer out")
    a, e, b = torch.cat([t[0] for t in kept]), torch.cat([t[1].reshape(-1, 1) for t in kept]), torch.cat([t[2] for t in kept], 1)
    return layer.plus(b @ (a * e) * layer.option("lora_alpha") / (len(e) + _EPSILON))


def _allora(layer: Layer) -> Folded:
    """B A without a scale (M261): what its training rescales are gradients."""
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    return layer.plus(layer.sized("allora_B", outputs, None) @ layer.sized("allora_A", None, inputs))


def _orthogonal_adaptation(layer: Layer) -> Folded:
    """A B^T over a fixed part B of an orthogonal basis (M263); several are summed."""
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    return layer.plus(layer.sized("oa_A", outputs, None) @ layer.sized("oa_B", inputs, None).T)


def _delora(layer: Layer) -> Folded:
    """lambda / r sum of b a w / (|b| |a|), w the norms of the base's columns as the folder has them."""
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    rank, norms = layer.pattern("rank_pattern", "r"), layer.flat("delora_w_norm", inputs)
    a, b = layer.sized("delora_A", rank, inputs), layer.sized("delora_B", outputs, rank)
    unit = layer.flat("delora_lambda", 1) / rank / (a.norm(dim=1).clamp_min(_LEAST_NORM) * b.norm(dim=0).clamp_min(_LEAST_NORM))
    return layer.plus((b * unit) @ a * norms)


def _gralora(layer: Layer) -> Folded:
    """k x k blocks, each of rank r / k, and a common pair of factors in the hybrid form."""
    layer.only("linear")
    a, b = layer["gralora_A"], layer["gralora_B"]  # [k, in / k, r], [k, r, out / k]
    blocks, rank, hybrid = len(a), a.shape[-1], layer.option("hybrid_r")
    a = a.reshape(blocks, a.shape[1], blocks, rank // blocks)  # part j of block n's ranks goes to outputs j
    b = b.reshape(blocks, blocks, rank // blocks, -1)  # and comes to outputs j from inputs n
    delta = torch.einsum("nijr,jnro->joni", a, b).reshape(layer.matrix.shape)
    if hybrid:
        outputs, inputs = layer.weight.shape
        delta = delta + layer.sized("gralora_B_general.weight", outputs, hybrid) @ layer.sized("gralora_A_general.weight", hybrid, inputs)
    return layer.plus(delta * layer.option("alpha") / (layer.option("r") + hybrid))


def _miss(layer: Layer) -> Folded:
    """D[in mod r, out]^T, the same for every r inputs; the older form with blocks adds W_ij B_j too (M6, MiSS and Bone)."""
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    block = layer["bone_block" if layer.option("peft_type").upper() == "BONE" else "miss_block"]
    if block.shape[-1 if layer.option("init_weights", True) == "bat" else 0] != layer.option("r"):
        raise layer.error(f"the config says rank {layer.option('r')}, the block is {list(block.shape)}", "save the adapter again")
    if layer.option("init_weights", True) == "bat":
        return layer.plus(_bat(layer, block))
    if layer.option("init_weights", True) == "mini":
        block = block.repeat(1, outputs // layer.option("mini_r"))
    if block.shape[1] != outputs:
        raise layer.error(f"the adapter has {block.shape[1]} outputs, the layer {outputs}", "fold it onto the base that it was trained on")
    return layer.plus(block.T[:, torch.arange(inputs) % len(block)])


def _bat(layer: Layer, block: Tensor) -> Tensor:
    """B_j in [out / r, r, r]: W_ij B_j + B_j for the blocks W_ij, output block i and input block j, where PEFT indexes B by i."""
    rank, (outputs, inputs) = block.shape[-1], layer.weight.shape
    if outputs % rank or inputs % rank or len(block) != outputs // rank:
        what = f"blocks {list(block.shape)} do not divide a weight {list(layer.weight.shape)}"
        raise layer.error(what, "fold it onto the base that it was trained on")
    blocks = layer.weight.reshape(outputs // rank, rank, inputs // rank, rank).permute(2, 0, 1, 3)
    return (blocks @ block + block).permute(1, 2, 0, 3).reshape(outputs, inputs)


KINDS = {
    "ADALORA": Kind(_adalora, ("lora_",), "M49; PEFT tuners/adalora/layer.py"),
    "DELORA": Kind(_delora, ("delora_",), "PEFT tuners/delora/layer.py"),
    "GRALORA": Kind(_gralora, ("gralora_",), "PEFT tuners/gralora/layer.py"),
    "MISS": Kind(_miss, ("miss_",), "M6; PEFT tuners/miss/layer.py", additive=False),
    "BONE": Kind(_miss, ("bone_",), "M6; PEFT 0.14 tuners/bone/layer.py", additive=False),
    "INCRELORA": Kind(_increlora, ("increlora_",), "M319"),
    "ALLORA": Kind(_allora, ("allora_",), "M261"),
    "ORTHOGONAL_ADAPTATION": Kind(_orthogonal_adaptation, ("oa_",), "M263"),
}
