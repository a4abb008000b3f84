"""W' = W + diag(b) B diag(d) A with A and B common to all layers: VeRA, PVeRA, RandLora, VB-LoRA, Uni-LoRA, TinyLoRA."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layer import Folded, Kind, Layer


def _common(layer: Layer, name: str, option: str) -> Tensor:
    """A tensor that all layers share; PEFT would draw it again where it was not saved, which its versions do differently."""
    found = layer.get(name)
    if found is None:
        raise layer.error(f"{name} is not in the folder", f"save it with {option}=True")
    return found


def _vera(layer: Layer) -> Folded:
    rank = layer.option("r")
    return _scaled(layer, "vera", layer.flat("vera_lambda_d", rank), rank)


def _pvera(layer: Layer) -> Folded:
    """The mean of what it draws: the first half of d and of A."""
    if layer.option("sample_at_inference", False):
        raise layer.error("it draws its values in every run", "set sample_at_inference=False")
    rank = layer.option("r")
    return _scaled(layer, "pvera", layer.flat("pvera_lambda_d", 2 * rank)[:rank], 2 * rank)


def _scaled(layer: Layer, name: str, inner: Tensor, rows: int) -> Folded:
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    a, b = (_common(layer, f"{name}_{end}", "save_projection") for end in "AB")
    a, b = _part(layer, a, rows, inputs, exact=0), _part(layer, b, outputs, len(inner), exact=1)
    return layer.plus(layer.flat(f"{name}_lambda_b", outputs).reshape(-1, 1) * (b @ (inner.reshape(-1, 1) * a[: len(inner)])))


def _part(layer: Layer, value: Tensor, rows: int, columns: int, exact: int) -> Tensor:
    """The first rows and columns of a matrix for the largest layer; the rank's axis has to be `exact`."""
    if value.dim() != 2 or value.shape[exact] != (rows, columns)[exact] or value.shape[0] < rows or value.shape[1] < columns:
        what = f"a common matrix is {list(value.shape)}, the layer takes [{rows}, {columns}]"
        raise layer.error(what, "fold it onto the base that it was trained on")
    return value[:rows, :columns]


def _randlora(layer: Layer) -> Folded:
    """alpha / r times a product of scaled bases, the larger of the layer's sizes on B's side.

    PEFT flattens B by base and rank and A by rank and base before it multiplies them, so that is what was trained.
    """
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    least, most = sorted((outputs, inputs))
    rank = layer.option("r")
    bases = -(-least // rank)
    a, b = (_common(layer, f"randlora_{end}", "save_projection") for end in "AB")  # [r, 1, least], [most, bases, r] or larger
    if a.dim() != 3 or b.dim() != 3 or (*a.shape[:2], b.shape[2]) != (rank, 1, rank) or a.shape[2] < least or b[0, :, 0].numel() < bases:
        what = f"common bases are {list(a.shape)} and {list(b.shape)}, the layer is {list(layer.weight.shape)}"
        raise layer.error(what, "fold it onto the base that it was trained on")
    inner, gamma = layer.sized("randlora_lambda", rank, bases), layer.sized("randlora_gamma", bases, least)
    scaled = (inner.unsqueeze(-1) * a[:, :, :least] * gamma).flatten(0, 1)
    delta = b[:most, :bases].flatten(1) @ scaled
    return layer.plus((delta if inputs == least else delta.T) * layer.option("randlora_alpha") / layer.option("r"))


def _vblora(layer: Layer) -> Folded:
    """B A whose parts are mixtures of the k vectors of a bank with the largest logits."""
    layer.only("linear")
    bank, count = layer["vblora_vector_bank"], layer.option("topk")

    def mixed(end: str) -> Tensor:
        logits = layer.get(f"vblora_logits_{end}")
        if logits is not None and logits.shape[-1] != len(bank):
            raise layer.error(f"{logits.shape[-1]} logits for {len(bank)} vectors", "save the adapter again")
        if logits is None:
            chosen, weights = layer[f"vblora_logits_{end}_topk_indices"].long(), layer[f"vblora_logits_{end}_topk_weights"]
            weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], -1)
        else:
            largest, chosen = logits.topk(count, dim=-1)
            weights = largest.softmax(-1)
        return (weights.unsqueeze(-1) * bank[chosen]).sum(-2)

    a, b = mixed("A"), mixed("B")  # [r, in / v, v], [out / v, r, v]
    return layer.plus(b.transpose(1, 2).reshape(-1, b.shape[1]) @ a.reshape(len(a), -1))


def _unilora(layer: Layer) -> Folded:
    """Factors whose every element is one of a few shared numbers, chosen by indices and scaled."""
    layer.only("linear")
    numbers, rank, (outputs, inputs) = layer["unilora_theta_d"], layer.option("r"), layer.weight.shape
    factors = []
    for end, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
        _common(layer, f"unilora_indices_{end}", "save_indices")
        chosen = layer.sized(f"unilora_indices_{end}", *shape).long()
        factors.append(numbers[chosen] * layer.sized(f"unilora_scales_{end}", *shape))
    return layer.plus(factors[1] @ factors[0])


def _tinylora(layer: Layer) -> Folded:
    """B (sum_i v_i P_i) A; A and B are in the folder, because the signs of a base's singular vectors are nobody's property."""
    layer.only("linear")
    vectors = [name for name in layer.shared if name.startswith("tinylora_v.")]
    if len(vectors) != 1:
        what = f"{len(vectors)} vectors are shared by order of the modules, which the folder does not say"
        raise layer.error(what, "merge it with PEFT, or tie all layers to one vector (weight_tying=1.0)")
    _common(layer, "tinylora_P", "save_projection")
    count = layer.option("u")
    inner = torch.einsum("i,ijk->jk", layer.flat(vectors[0], count), layer.sized("tinylora_P", count, None, None))
    return layer.plus(layer["tinylora_B"] @ inner @ layer["tinylora_A"])


KINDS = {
    "VERA": Kind(_vera, ("vera_",), "PEFT tuners/vera/layer.py"),
    "PVERA": Kind(_pvera, ("pvera_",), "PEFT tuners/pvera/layer.py"),
    "RANDLORA": Kind(_randlora, ("randlora_",), "PEFT tuners/randlora/layer.py"),
    "VBLORA": Kind(_vblora, ("vblora_",), "PEFT tuners/vblora/layer.py"),
    "UNILORA": Kind(_unilora, ("unilora_",), "PEFT tuners/unilora/layer.py"),
    "TINYLORA": Kind(_tinylora, ("tinylora_",), "PEFT tuners/tinylora/layer.py"),
}
