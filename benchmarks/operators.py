"""Integer non-linearities against exact arithmetic: ours beside the formulas of I-BERT and I-ViT, on the same quantised inputs.

Run: ``python benchmarks/operators.py``. I-BERT: Kim et al. 2021 (arXiv 2101.01321); I-ViT: Li and Gu 2022 (arXiv 2207.01405).
Their divisions and square roots are done here as their reference code does them, with exact integers.

Errors are in the unit that each line names, against float64 on the real values that the integers stand for; a table or a
result of 8 bits cannot be nearer than half a step (its rms error is 0.29 steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fxpress  # noqa: F401  registers the operators
import numpy as np
import readme
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
_fxp = torch.ops.fxp


@dataclass(frozen=True)
class Line:
    """One operator on one kind of input: the exact values and what each formula gives, in real numbers of `unit`."""

    operator: str
    inputs: str
    unit: str
    exact: Array
    found: dict[str, Array]


def integers(values: Array, bits: int) -> tuple[Array, float]:
    """Symmetric quantisation: whole numbers (float64) and their scale."""
    most = (1 << (bits - 1)) - 1
    scale = float(np.abs(values).max()) / most
    return np.rint(values / scale), scale


def i_exp(q: Array, scale: float, n: int = 30) -> tuple[Array, float]:
    """I-BERT's exponential for q <= 0: a polynomial on (-ln 2, 0], shifted by the number of halvings."""
    x0 = math.floor(-math.log(2) / scale)
    b = math.floor(0.96963238 / 0.35815147 / scale)
    c = math.floor(1.0 / 0.35815147 / scale**2)
    q = np.maximum(q, n * x0)
    halvings = np.floor(q / x0)
    rest = q - x0 * halvings
    return np.maximum(np.floor(((rest + b) * rest + c) * 2.0 ** (n - halvings)), 0), 0.35815147 * scale**2 / 2**n


def i_softmax(q: Array, scale: float, bits: int = 8) -> Array:
    """I-BERT: the exponential requantised to 16 bits, one division a row."""
    exponential, unit = i_exp(q - q.max(-1, keepdims=True), scale)
    step = float(exponential.max() * unit) / 32767
    short = np.rint(exponential * unit / step)
    factor = np.floor(2.0**32 / short.sum(-1, keepdims=True))
    return np.floor(short * factor / 2.0 ** (32 - bits)) / 2**bits


def shiftmax(q: Array, scale: float, bits: int = 8) -> Array:
    """I-ViT: powers of two by shifts, linear between them."""
    q = q - q.max(-1, keepdims=True)
    q = q + np.floor(q / 2) - np.floor(q / 16)
    x0, n = math.floor(-1 / scale), 15
    q = np.maximum(q, n * x0)
    halvings = np.floor(q / x0)
    exponential = np.maximum(np.floor((np.floor((q - x0 * halvings) / 2) - x0) * 2.0 ** (n - halvings)), 0)
    factor = np.floor((2.0**31 - 1) / exponential.sum(-1, keepdims=True))
    return np.floor(exponential * factor / 2.0 ** (31 - bits + 1)) / 2 ** (bits - 1)


def i_gelu(q: Array, scale: float) -> Array:
    """I-BERT: a parabola for erf."""
    a, b, c, n = -0.2888, -1.769, 1.0, 14
    scale_erf = scale / 1.4142
    b_int, c_int = math.floor(b / scale_erf), math.floor(c / a / scale_erf**2)
    clipped = np.minimum(np.abs(q), -b_int)
    erf = np.floor(np.sign(q) * ((clipped + b_int) ** 2 + c_int) / 2**n)
    unit = scale_erf**2 * a * 2**n
    one = math.floor(1.0 / unit)
    return q * (erf + one) * scale * unit / 2


def shift_gelu(q: Array, scale: float) -> Array:
    """I-ViT: x times the shift-based sigmoid of 1.702 x."""
    pre = q + np.floor(q / 2) + np.floor(q / 8) + np.floor(q / 16)
    x0, n = math.floor(-1 / scale), 23

    def exponential(value: Array) -> Array:
        value = value + np.floor(value / 2) - np.floor(value / 16)
        value = np.maximum(value, n * x0)
        halvings = np.floor(value / x0)
        return np.maximum(np.floor((np.floor((value - x0 * halvings) / 2) - x0) * 2.0 ** (n - halvings)), 0)

    most = pre.max(-1, keepdims=True)
    own, other = exponential(pre - most), exponential(-most)
    total = np.minimum(own + other, 2.0**31 - 1)
    sigmoid = np.floor(own * np.floor((2.0**31 - 1) / total) / 2.0 ** (31 - 8 + 1))
    return q * sigmoid * scale / 2**7


def _mean_removed(q: Array) -> Array:
    return q - np.rint(q.mean(-1, keepdims=True))


def i_layer_norm(q: Array) -> Array:
    """I-BERT: a rounded mean, the root of the integer sum of squares."""
    y = _mean_removed(q)
    factor = np.floor(2.0**31 / np.maximum(np.floor(np.sqrt((y**2).sum(-1, keepdims=True))), 1))
    return np.floor(y * factor / 2) * math.sqrt(q.shape[-1]) / 2**30


def i_vit_layer_norm(q: Array) -> Array:
    """I-ViT: as I-BERT, the root by ten Newton steps from 2**16."""
    y = _mean_removed(q)
    variance = (y**2).sum(-1, keepdims=True)
    root = np.full_like(variance, 2.0**16)
    for _ in range(10):
        root = np.floor((root + np.floor(variance / root)) / 2)
    factor = np.floor((2.0**31 - 1) / np.maximum(root, 1))
    return np.floor(y * factor / 2) * math.sqrt(q.shape[-1]) / 2**30


def _tensor(q: Array, bits: int) -> Tensor:
    return torch.from_numpy(q).to(torch.int8 if bits == 8 else torch.int16)


def gelu(x: Array) -> Array:
    found: Array = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    return found


def softmax_lines(random: np.random.Generator) -> Iterator[Line]:
    for spread in (1.0, 3.0):
        q, scale = integers(random.normal(0, spread, (64, 197)), 8)
        exact = np.exp(q * scale - (q * scale).max(-1, keepdims=True))
        exact /= exact.sum(-1, keepdims=True)
        table = torch.round(2**14 * torch.exp(-scale * torch.arange(256, dtype=torch.float64))).to(torch.int32)[None]
        ours = {bits: _fxp.softmax(_tensor(q, 8), table[0], bits).numpy() / 2.0**bits for bits in (8, 15)}
        found = {"ours, 8 bits": ours[8], "ours, 15 bits": ours[15], "I-BERT": i_softmax(q, scale), "I-ViT": shiftmax(q, scale)}
        yield Line("softmax", f"8-bit scores, sd {spread:g}, 197 keys", "probability", exact, found)


def gelu_lines(random: np.random.Generator) -> Iterator[Line]:
    for bits, reach in ((8, 3.0), (8, 6.0), (16, 6.0)):
        q, scale = integers(random.uniform(-reach, reach, (64, 256)), bits)
        exact, name = gelu(q * scale), "ours, table" if bits == 8 else "ours, chords"
        found = {name: gelu_of(q, scale, bits, reach), "I-BERT": i_gelu(q, scale)}
        if bits == 8:  # with finer scales its exponentials leave 32 bits
            found["I-ViT"] = shift_gelu(q, scale)
        yield Line("GELU", f"{bits} bits on [-{reach:g}, {reach:g}]", "value", exact, found)


def gelu_of(q: Array, scale: float, bits: int, reach: float) -> Array:
    """By table, to as many bits as the input has."""
    step = reach / ((1 << (bits - 1)) - 1)
    codes = np.arange(-128, 128) if bits == 8 else np.arange(-(1 << 15), (1 << 15) + 1, 128)
    table = torch.from_numpy(np.rint(gelu(codes * scale) / step)).to(torch.int8 if bits == 8 else torch.int16)[None]
    operator: Callable[..., Tensor] = _fxp.lut if bits == 8 else _fxp.lut16
    found: Array = operator(_tensor(q, bits), table, 1).numpy() * step
    return found


def layer_norm_lines(random: np.random.Generator) -> Iterator[Line]:
    for bits, width in ((8, 192), (8, 768), (16, 768), (16, 4096)):
        values = random.normal(0.3, 1.0, (64, width))
        values[:, :2] *= 10  # outlier channels
        q, _ = integers(values, bits)
        exact = (q - q.mean(-1, keepdims=True)) / q.std(-1, keepdims=True)
        ours = _fxp.normalize(_tensor(q, bits), 1, True).numpy() / 2.0**10
        found = {"ours": ours, "I-BERT": i_layer_norm(q), "I-ViT": i_vit_layer_norm(q)}
        yield Line("LayerNorm", f"{bits} bits, {width} values, two outlier channels", "standard deviation", exact, found)


def table() -> str:
    random = np.random.default_rng(0)
    rows = []
    for lines in (softmax_lines, gelu_lines, layer_norm_lines):
        for line in lines(random):
            for name, values in line.found.items():
                error: Any = np.abs(values - line.exact)
                rows.append((line.operator, line.inputs, name, f"{error.max():.2g}", f"{math.sqrt((error**2).mean()):.2g}", line.unit))
    return readme.markdown(("operator", "input", "formula", "max error", "rms error", "unit"), rows)


def main() -> None:
    print(table())


if __name__ == "__main__":
    main()
