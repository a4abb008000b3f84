"""W' = W + s B A, s = alpha / r or alpha / sqrt(r), b' = b + s b_B; DoRA scales each output of that to a norm of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..layer import Folded, Kind, Layer
from .sparse import fold_tokens

_REFUSED = {
    "alora_invocation_tokens": ("it acts from the invocation tokens on", "keep it as a branch"),
    "arrow_config": ("a router chooses between adapters for each token", "fold one of the adapters"),
    "layer_replication": ("it repeats layers of the base", "capture the model with the layers repeated, then fold"),
    "use_qalora": ("QA-LoRA pools the inputs of a base that is quantised by groups", "fold it where the base was quantised"),
}
"""Options under which a LoRA folder is no change of the captured weights."""
_PLAIN = {"true", "false", "gaussian", "eva", "orthogonal", "mica"}
"""Initialisations that leave the base as it is."""


def fold_lora(layer: Layer) -> Folded:
    for name, (reason, way_on) in _REFUSED.items():
        if layer.option(name, None):
            raise layer.error(f"{name}: {reason}", way_on)
    for name in [name for name in layer.tensors if name.startswith(("lora_velora_", "lora_monteclora_"))]:
        layer.get(name)  # used in training alone
    base, scale, product = _base(layer), lora_scale(layer), _product(layer)
    biased = layer.option("lora_bias", False) or "lora_B.bias" in layer.tensors
    bias = layer.flat("lora_B.bias", len(layer.weight)) if biased else None
    if layer.option("use_dora", False):
        return _dora(layer, base, scale, product, bias)
    return layer.becomes(base + scale * product, layer.bias if bias is None else layer.bias_or_zero + scale * bias)


def lora_scale(layer: Layer) -> float:
    """alpha / r, or alpha / sqrt(r) where rank-stabilised (Kalajdzievski 2023); both may differ from layer to layer."""
    rank, alpha = layer.pattern("rank_pattern", "r"), layer.pattern("alpha_pattern", "lora_alpha")
    return float(alpha / math.sqrt(rank)) if layer.option("use_rslora", False) else float(alpha / rank)


def _factors(layer: Layer) -> tuple[Tensor, Tensor]:
    names = ("lora_embedding_A", "lora_embedding_B") if layer.role == "embedding" else ("lora_A.weight", "lora_B.weight")
    a, b = (layer[name] for name in names)
    rank = layer.pattern("rank_pattern", "r")
    if layer.role != "parameter" and not layer.option("use_bdlora", None) and (a.shape[0], b.shape[1]) != (rank, rank):
        raise layer.error(f"the config says rank {rank}, the tensors have {a.shape[0]} and {b.shape[1]}", "save the adapter again")
    return a, b


def _product(layer: Layer) -> Tensor:
    """B A in the weight's shape."""
    if layer.role == "conv" and (layer.groups > 1 or layer.dilated):
        raise layer.error("its branch is a convolution without the base's groups and dilation", "it stays a branch")
    a, b = _factors(layer)
    if layer.role == "embedding":
        return layer.fitting((b @ a).T)
    if layer.role == "parameter":
        return _of_parameter(layer, a, b)
    layer.only("linear", "conv")
    if layer.option("use_bdlora", None):
        blocks = layer.config["use_bdlora"]["nblocks"]
        named = {end: layer.config["use_bdlora"].get(f"target_modules_bd_{end}") or [] for end in "ab"}
        a, b = (_block_diagonal(value, blocks, layer.path, named[end]) for value, end in ((a, "a"), (b, "b")))
    product = b.flatten(1) @ a.flatten(1)
    if len(product) != len(layer.weight):
        raise layer.error(
            f"lora_B has {len(product)} outputs, the layer {len(layer.weight)}", "fold it onto the base that it was trained on"
        )
    return layer.fitting(product)


def _block_diagonal(value: Tensor, blocks: int, path: str, named: list[str]) -> Tensor:
    """BD-LoRA stores the blocks of a block-diagonal factor below each other."""
    target = path.rpartition(".")[2]
    return torch.block_diag(*value.chunk(blocks)) if any(name in target for name in named) else value  # type: ignore[no-untyped-call]


def _of_parameter(layer: Layer, a: Tensor, b: Tensor) -> Tensor:
    """target_parameters: one pair of factors for each of the experts of a parameter [experts, .., ..]."""
    if layer.weight.dim() == 2:
        return layer.fitting(b @ a)
    experts, first, second = layer.weight.shape
    a, b = a.reshape(experts, -1, a.shape[-1]), b.reshape(b.shape[0], -1, experts)
    if first == second:
        raise layer.error(f"a parameter {list(layer.weight.shape)} does not say which size is the input's", "merge it with PEFT")
    return layer.fitting(torch.einsum("ore,eri->eoi" if b.shape[0] == first else "ore,eri->eio", b, a))


def _dora(layer: Layer, base: Tensor, scale: float, product: Tensor, bias: Tensor | None) -> Folded:
    """m / ||W + s B A|| times W + s B A, norms over the inputs of each output (Liu et al. 2024, eq. 5)."""
    if bias is not None:
        raise layer.error("DoRA has no formula with a bias of lora_B", "it stays a branch")
    folded = base + scale * product
    name = "lora_magnitude_vector" if "lora_magnitude_vector" in layer.tensors else "lora_magnitude_vector.weight"
    magnitude = layer.flat(name, folded.shape[1] if layer.role == "embedding" else len(folded))
    if layer.role == "embedding":
        return layer.becomes(folded * (magnitude / folded.norm(dim=0)), None)
    gain = magnitude / folded.flatten(1).norm(dim=1)
    return layer.becomes(folded * gain.reshape(-1, *[1] * (base.dim() - 1)), layer.bias)


def _base(layer: Layer) -> Tensor:
    """The base after what PEFT does to it when it loads such an adapter.

    PiSSA, OLoRA and KaSA take a part out of W that depends on W alone, so it is taken out here too; the rest drew random numbers or
    needs data, so that the folder does not determine W.
    """
    how = str(layer.option("init_lora_weights", True)).lower()
    if layer.option("kasa_config", None):
        return _without(layer, "KaSA", lambda u, s, v, r: (u[:, -r:] * s[-r:]) @ v[-r:])
    if how == "pissa":
        return _without(layer, "PiSSA", lambda u, s, v, r: (u[:, :r] * s[:r]) @ v[:r])
    if how == "olora":
        layer.only("linear")
        rank = layer.pattern("rank_pattern", "r")
        q, r = torch.linalg.qr(layer.weight)
        rest: Tensor = layer.weight - lora_scale(layer) * q[:, :rank] @ r[:rank]
        return rest
    if how not in _PLAIN:
        reason = "the base it was trained on is neither the original nor determined by the folder"
        way_on = "save it with path_initial_model_for_weight_conversion, which makes it a plain LoRA"
        raise layer.error(f"init_lora_weights={how}: {reason}", way_on)
    return layer.weight


def _without(layer: Layer, what: str, part: Any) -> Tensor:
    layer.only("linear")
    u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
    rank = layer.pattern("rank_pattern", "r")
    if rank >= len(s) and what == "KaSA":
        raise layer.error(f"{what} of rank {rank} leaves nothing of a weight {list(layer.weight.shape)}", "train it with a smaller rank")
    found: Tensor = layer.weight - part(u, s, v, rank)
    return found


def _fold(layer: Layer) -> Folded:
    """Tokens of an embedding that were trained beside it; KaSA, which has a diagonal between the factors; everything else is LoRA."""
    if "trainable_tokens_delta" in layer.tensors:
        return fold_tokens(layer)
    if not layer.option("kasa_config", None):
        return fold_lora(layer)
    a, b = _factors(layer)
    return layer.becomes(_base(layer) + lora_scale(layer) * (b * layer.flat("lora_diag", len(a))) @ a, layer.bias)


KINDS = {
    "LORA": Kind(
        _fold,
        ("lora_", "trainable_tokens_"),
        "PEFT tuners/lora/layer.py, variants.py, dora.py; M46 for its initialisations",
        whole=("use_dora", "kasa_config", "trainable_token_indices"),
    ),
}
