"""W' = W + a few elements: in the weight (SHiRA, SpIEL, LT-SFT, super weights), its spectrum (FourierFT, WaveFT), rows, or rolled (C3A)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layer import Folded, Kind, Layer


def _scattered(layer: Layer, indices: Tensor, values: Tensor) -> Tensor:
    """Zeros but for `values` at flat `indices`; an index that stands twice is refused, because sums and assignments would differ."""
    flat, size = indices.long().flatten(), layer.weight.numel()
    if len(flat) != values.numel():
        raise layer.error(f"{len(flat)} indices for {values.numel()} values", "save the adapter again")
    if len(flat) and (int(flat.min()) < 0 or int(flat.max()) >= size):
        raise layer.error(f"an index is outside of the {size} elements", "fold it onto the base that it was trained on")
    if len(flat) and int(torch.bincount(flat).max()) > 1:
        raise layer.error("an index stands twice", "sum the values of equal indices and save the adapter again")
    return torch.zeros(size, dtype=torch.float64).index_put((flat,), values.flatten()).reshape(layer.weight.shape)


def _pairs(layer: Layer, indices: Tensor) -> Tensor:
    """[2, n] of rows and columns ==> flat."""
    return indices[0].long() * layer.weight.shape[-1] + indices[1].long()


def _shira(layer: Layer) -> Folded:
    layer.only("linear")
    return layer.plus(_scattered(layer, _pairs(layer, layer["shira_indices"]), layer["shira_weight"]))


def _supertuning(layer: Layer) -> Folded:
    """The base's largest weights, and a LoRA beside them where r is given."""
    layer.only("linear")
    values, indices = layer["supertuning_values"], layer.get("supertuning_indices")
    if indices is None:
        raise layer.error("supertuning_indices is not in the folder", "save it with save_precomputed_indices=True")
    delta, rank = _scattered(layer, indices, values), layer.option("r", None)
    if rank is not None:
        outputs, inputs = layer.weight.shape
        a, b = layer.sized("supertuning_lora_A.weight", rank, inputs), layer.sized("supertuning_lora_B.weight", outputs, rank)
        delta = delta + layer.option("lora_alpha") / rank * b @ a
    return layer.plus(delta)


def _spiel(layer: Layer) -> Folded:
    """Flat indices and deltas (M260)."""
    return layer.plus(_scattered(layer, layer["spiel_indices"], layer["spiel_deltas"]))


def _lt_sft(layer: Layer) -> Folded:
    """phi of Composable LT-SFT (M291): flat indices and differences, of weights and biases."""
    delta = _scattered(layer, layer["lt_sft_weight_indices"], layer["lt_sft_weight_values"])
    indices = layer.get("lt_sft_bias_indices")
    if indices is None:
        return layer.plus(delta)
    bias = torch.zeros_like(layer.bias_or_zero).index_put((indices.long(),), layer["lt_sft_bias_values"])
    return layer.plus(delta, bias)


def _drawn(layer: Layer, values: Tensor) -> Tensor:
    """`values` at the first places of a permutation that the folder's seed determines."""
    places = torch.randperm(layer.weight.numel(), generator=torch.Generator().manual_seed(layer.option("random_loc_seed")))
    return _scattered(layer, places[: len(values)], values)


def _fourierft(layer: Layer) -> Folded:
    """Real part of the inverse Fourier transform of n coefficients, times a scale."""
    layer.only("linear")
    count = layer.pattern("n_frequency_pattern", "n_frequency")
    return layer.plus(torch.fft.ifft2(_drawn(layer, layer.flat("fourierft_spectrum", count))).real * layer.option("scaling"))


def _waveft(layer: Layer) -> Folded:
    """Coefficients of a wavelet transform; db1 and none at all have a formula here."""
    layer.only("linear")
    spectrum, family = layer["waveft_spectrum"], layer.option("wavelet_family")
    if not layer.option("proportional_parameters", False):
        spectrum = layer.flat("waveft_spectrum", layer.pattern("n_frequency_pattern", "n_frequency"))
    dense = _drawn(layer, spectrum)
    if not layer.option("use_idwt", True):
        return layer.plus(dense * layer.option("scaling"))
    if family != "db1":
        raise layer.error(f"wavelets {family} have no formula here", "merge it with PEFT")
    return layer.plus(_inverse_haar(dense) * layer.option("scaling"))


def _inverse_haar(coefficients: Tensor) -> Tensor:
    """One level of the inverse two-dimensional Haar transform; PEFT's quarter right of the means is high along the rows' axis."""
    outputs, inputs = coefficients.shape
    means, along_rows, along_columns, both = (
        quarter
        for half in torch.nn.functional.pad(coefficients, (0, inputs % 2, 0, outputs % 2)).chunk(2, 0)
        for quarter in half.chunk(2, 1)
    )
    value = torch.cat((torch.cat((means, along_columns), 1), torch.cat((along_rows, both), 1)), 0)
    for axis in (0, 1):
        low, high = value.chunk(2, axis)
        value = torch.stack(((low + high), (low - high)), axis + 1).flatten(axis, axis + 1) / 2**0.5
    return value[:outputs, :inputs]


def _c3a(layer: Layer) -> Folded:
    """Blocks that are circulant; PEFT divides by the number of inputs."""
    layer.only("linear")
    kernels = layer["c3a_kernel"]  # [out / b, in / b, b]
    size = kernels.shape[-1]
    shifts = (torch.arange(size).reshape(-1, 1) - torch.arange(size)) % size
    # fft(fft(k) ifft(x)) is a correlation: output i takes input j times k[j - i].
    circulant = kernels[:, :, shifts.T]
    delta = circulant.permute(0, 2, 1, 3).reshape(kernels.shape[0] * size, -1)
    return layer.plus(delta / layer.weight.shape[1])


def fold_tokens(layer: Layer) -> Folded:
    """Rows of an embedding, or of the tied output layer, as they became."""
    layer.only("embedding", "linear")
    rows, wanted = layer["trainable_tokens_delta"], layer.config.get("token_indices")
    if wanted is None:
        wanted = layer.option("trainable_token_indices")
    if isinstance(wanted, dict):
        wanted = next((indices for name, indices in wanted.items() if layer.path.endswith(name)), next(iter(wanted.values())))
    if len(wanted) != len(rows) or rows.shape[1:] != layer.weight.shape[1:] or max(wanted, default=0) >= len(layer.weight):
        raise layer.error(f"{list(rows.shape)} for {len(wanted)} tokens of {list(layer.weight.shape)}", "fold it onto its own base")
    return layer.becomes(layer.weight.index_copy(0, torch.tensor(wanted), rows), layer.bias)


def _replaced(layer: Layer) -> Folded:
    """The folder holds the base's own tensors, which were put in their places before."""
    return layer.weight, layer.bias


KINDS = {
    "LN_TUNING": Kind(_replaced, (), "PEFT tuners/ln_tuning/layer.py", additive=False),
    "BITFIT": Kind(_replaced, (), "Ben Zaken et al. 2022", additive=False),
    "SHIRA": Kind(_shira, ("shira_",), "PEFT tuners/shira/layer.py"),
    "SUPERTUNING": Kind(_supertuning, ("supertuning_",), "PEFT tuners/supertuning/layer.py"),
    "SPIEL": Kind(_spiel, ("spiel_",), "M260"),
    "LT_SFT": Kind(_lt_sft, ("lt_sft_",), "M291"),
    "FOURIERFT": Kind(_fourierft, ("fourierft_",), "PEFT tuners/fourierft/layer.py"),
    "WAVEFT": Kind(_waveft, ("waveft_",), "PEFT tuners/waveft/layer.py"),
    "C3A": Kind(_c3a, ("c3a_",), "PEFT tuners/c3a/layer.py"),
    "TRAINABLE_TOKENS": Kind(fold_tokens, ("trainable_tokens_",), "PEFT tuners/trainable_tokens/layer.py", additive=False),
}
