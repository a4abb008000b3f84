"""W' = W R^T for an orthogonal R: Cayley transforms in blocks (OFT, BOFT), reflections (HRA), rotations of pairs of outputs (RoAd)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layer import Folded, Kind, Layer


def _oft(layer: Layer) -> Folded:
    """x ==> x R before the layer, R of blocks; so W R^T."""
    if layer.role == "conv":
        what = "PEFT rotates a convolution's overlapping windows and adds them up, which is no convolution (its merge is another function)"
        raise layer.error(what, "capture the PeftModel itself")
    layer.only("linear", "embedding")
    name = "oft_embedding_R.weight" if layer.role == "embedding" else "oft_R.weight"
    vectors = layer[name]
    inputs = layer.weight.shape[1]
    shared = layer.option("block_share", False)
    size = int((1 + (1 + 8 * vectors.shape[1]) ** 0.5) / 2)
    if (shared and len(vectors) != 1) or size * (size - 1) != 2 * vectors.shape[1]:
        raise layer.error(f"{name} is {list(vectors.shape)}, no triangles of blocks", "save the adapter again")
    said = layer.option("oft_block_size") or (inputs // layer.option("r") if layer.option("r") else size)
    if layer.role != "conv" and inputs % said == 0 and said != size:
        raise layer.error(f"the config says blocks of {said}, the tensor has {size}", "save the adapter again")
    if inputs % size or (not shared and len(vectors) * size != inputs):
        what = f"blocks of {size} do not fill {inputs} inputs"
        raise layer.error(what, "fold it onto the base that it was trained on")
    skew = _skew(vectors, size)
    if layer.option("coft", False):
        skew = _constrained(skew, layer.option("eps"))
    if layer.option("use_cayley_neumann", True):
        rotations = _cayley_neumann(skew, layer.option("num_cayley_neumann_terms", 5))
    else:
        rotations = _cayley(skew)
    blocks = layer.weight.reshape(len(layer.weight), inputs // size, size)
    # An embedding's results are rotated, a layer's inputs: x R against W R^T.
    turned = "obk,bkc->obc" if layer.role == "embedding" else "obc,bkc->obk"
    return layer.becomes(torch.einsum(turned, blocks, rotations.expand(inputs // size, size, size)), layer.bias)


def _skew(vectors: Tensor, size: int) -> Tensor:
    rows, columns = torch.triu_indices(size, size, 1)
    matrix = vectors.new_zeros(len(vectors), size, size)
    matrix[:, rows, columns] = vectors
    return matrix - matrix.mT


def _constrained(skew: Tensor, eps: float) -> Tensor:
    """COFT: each block within a ball, smaller for more blocks; PEFT writes it back when it runs the layer, so it holds for a folder."""
    radius = eps / len(skew) ** 0.5
    norms = skew.norm(dim=(1, 2), keepdim=True)
    return torch.where(norms <= radius, skew, skew * (radius / norms))


def _cayley(skew: Tensor) -> Tensor:
    """(I - Q) (I + Q)^-1."""
    one = torch.eye(skew.shape[-1], dtype=skew.dtype)
    rotations: Tensor = torch.linalg.solve(one + skew, (one - skew).expand_as(skew), left=False)
    return rotations


def _cayley_neumann(skew: Tensor, terms: int) -> Tensor:
    """I + 2 Q + 2 Q^2 + .. + 2 Q^(t-2) + Q^(t-1): what PEFT runs in place of the inverse (tuners/oft/layer.py, _cayley_batch)."""
    total, power = torch.eye(skew.shape[-1], dtype=skew.dtype).expand_as(skew).clone(), skew
    if terms <= 1:
        return total
    total += 2 * skew
    if terms <= 2:
        return total
    power = skew @ skew
    total += 2 * power
    for _ in range(3, terms - 1):
        power = power @ skew
        total += 2 * power
    return total + power @ skew


def _boft(layer: Layer) -> Folded:
    """diag(s) W R^T with R = product of P B P^T, B of Cayley blocks, P the butterfly's permutations (Liu et al. 2024)."""
    layer.only("linear", "conv")
    factors, blocks, size, _ = layer.sized("boft_R", None, None, None, None).shape
    stored, gains = layer.sized("boft_R", factors, blocks, size, size), layer.flat("boft_s", len(layer.weight))
    if factors > 1:
        what = f"{factors} butterfly factors need PEFT's CUDA kernel, without which it runs one"
        raise layer.error(what, "merge it with PEFT where it was trained")
    width = blocks * size
    if width != layer.matrix.shape[1] or layer.groups > 1 or layer.dilated:
        what = f"blocks for {width} inputs, the layer has {layer.matrix.shape[1]}"
        raise layer.error(what, "fold it onto the base that it was trained on")
    rotations = _cayley((stored[0] - stored[0].mT) / 2)
    # One factor is not permuted (boft/layer.py, block_butterfly_perm with n_butterfly_factor 0).
    turned = torch.einsum("obc,bkc->obk", layer.matrix.reshape(-1, blocks, size), rotations).reshape(layer.matrix.shape)
    return layer.becomes((turned * gains.reshape(-1, 1)).reshape(layer.weight.shape), layer.bias)


def _hra(layer: Layer) -> Folded:
    """W times reflections I - 2 u u^T, made orthogonal to each other first where apply_GS."""
    layer.only("linear", "conv")
    vectors, matrix = layer.sized("hra_u", None, layer.option("r")), layer.matrix
    if len(vectors) != matrix.shape[1] or layer.groups > 1 or layer.dilated:
        what = f"reflections of {len(vectors)} inputs, the layer has {matrix.shape[1]}"
        raise layer.error(what, "fold it onto the base that it was trained on")
    units: list[Tensor] = []
    for vector in vectors.T:
        if layer.option("apply_GS", False):
            for unit in units:
                vector = vector - (unit @ vector) * unit
        units.append(vector / vector.norm())
    for unit in units:
        matrix = matrix - 2 * torch.outer(matrix @ unit, unit)
    return layer.becomes(matrix.reshape(layer.weight.shape), layer.bias)


def _road(layer: Layer) -> Folded:
    """R W and R b: pairs of outputs, half a group apart, are turned by theta and scaled by alpha."""
    layer.only("linear")
    size, variant = layer.option("group_size"), layer.option("variant")
    count = {"road_1": len(layer.weight) // 2, "road_2": len(layer.weight), "road_4": 2 * len(layer.weight)}[variant]
    theta, alpha = layer.flat("road_theta", count), layer.flat("road_alpha", count)
    if variant == "road_1":
        theta, alpha = (value.reshape(-1, size // 2).repeat_interleave(2, 0).flatten() for value in (theta, alpha))
    if variant == "road_4":
        theta, alpha = (value.reshape(-1, 2, size) for value in (theta, alpha))
        straight, crossed = (alpha * theta.cos())[:, 0].flatten(), (alpha * theta.sin())[:, 1].flatten()
    else:
        straight, crossed = alpha * theta.cos(), alpha * theta.sin()

    def turned(value: Tensor) -> Tensor:
        halves = value.reshape(-1, 2, size // 2, *value.shape[1:])
        swapped = torch.stack((-halves[:, 1], halves[:, 0]), 1).reshape(value.shape)
        ones = [1] * (value.dim() - 1)
        return value * straight.reshape(-1, *ones) + swapped * crossed.reshape(-1, *ones)

    return layer.becomes(turned(layer.weight), None if layer.bias is None else turned(layer.bias))


KINDS = {
    "OFT": Kind(_oft, ("oft_",), "PEFT tuners/oft/layer.py", additive=False),
    "BOFT": Kind(_boft, ("boft_",), "PEFT tuners/boft/layer.py", additive=False),
    "HRA": Kind(_hra, ("hra_",), "PEFT tuners/hra/layer.py", additive=False),
    "ROAD": Kind(_road, ("road_",), "PEFT tuners/road/layer.py", additive=False),
}
