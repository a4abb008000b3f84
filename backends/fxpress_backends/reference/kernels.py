"""Portable operator ==> NumPy integers: the arbiter of bits.

Written from the arithmetic's definition, apart from the torch operators: rounding is done on exact 64-bit products
without the pre-clip that makes 32 bits enough, so that agreement checks both. Floats appear at the borders only.

Operands are named as in the operator's schema (``self`` is ATen's); images are [N, C, H, W], padding is [top, left,
bottom, right].
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from fxpress_ir.errors import ProgramError
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .attention import attention, softmax
from .normalize import affine, normalize
from .product import accumulator, matmul
from .rotary import rotary
from .rounding import round_half_even

Array = NDArray[Any]


def quantize(x: Array, scale: float, qmin: int, qmax: int, dtype: str) -> Array:
    """clamp(rint(f32(x) / f32(scale))): IEEE division, half to even."""
    with np.errstate(over="ignore"):  # a quotient beyond float32 is infinite and saturates
        steps = np.rint(x.astype(np.float32) / np.float32(scale))
    result: Array = np.clip(steps, qmin, qmax).astype(dtype)
    return result


def dequantize(q: Array, scale: float) -> Array:
    """f32(q) * f32(scale)."""
    values: Array = q.astype(np.float32) * np.float32(scale)
    return values


def requantize(x: Array, b: Array, c: int, qmin: int, qmax: int, axis: int, dtype: str) -> Array:
    """clamp(rne(x * b / 2**c)), `b` along `axis`; |x * b| < 2**46 for int32 x."""
    along = [-1 if d == axis % x.ndim else 1 for d in range(x.ndim)]
    product = x.astype(np.int64) * b.astype(np.int64).reshape(along)
    return np.clip(round_half_even(product, c), qmin, qmax).astype(dtype)


def add(x: Array, y: Array, bx: int, by: int, c: int, qmin: int, qmax: int, dtype: str) -> Array:
    """clamp(rne((x * bx + y * by) / 2**c)), one rounding."""
    total = x.astype(np.int64) * bx + y.astype(np.int64) * by
    return np.clip(round_half_even(total, c), qmin, qmax).astype(dtype)


def _padded(x: Array, padding: Sequence[int], value: int) -> Array:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _windows(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """A view of x as [N, C, H', W', kernel height, kernel width]."""
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(x, span, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def conv2d(
    x: Array, weight: Array, bias: Array | None, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Array:
    """Cross-correlation in int32; `weight` is [outputs, C / groups, height, width].

    The sums go through float64 because BLAS is a hundred times faster than NumPy's integer matmul. They are exact in any
    order: products of 8-bit weights and 16-bit values stay below 2**23, so sums of fewer than 2**30 of them stay below 2**53.
    """
    outputs = weight.shape[0]
    matrix = weight.reshape(groups, outputs // groups, -1).astype(np.float64)
    windows = _windows(_padded(x, padding, 0), weight.shape[2:], stride, dilation)
    offset = np.zeros(1) if bias is None else bias.astype(np.float64)
    result = np.empty((x.shape[0], outputs, *windows.shape[2:4]), np.int32)
    for image, sample in zip(result, windows, strict=True):  # one image's columns at a time bound the memory
        columns = sample.transpose(0, 3, 4, 1, 2).reshape(groups, matrix.shape[2], -1).astype(np.float64)
        image[...] = accumulator((matrix @ columns).reshape(image.shape) + offset[:, None, None])
    return result


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x @ weight.T + bias in int32, for x [..., inputs]; through float64 as in `conv2d`."""
    sums = x.astype(np.float64) @ weight.T.astype(np.float64)
    return accumulator(sums if bias is None else sums + bias)


def _each_offset(windows: Array) -> list[Array]:
    return [windows[..., row, column] for row, column in np.ndindex(windows.shape[-2:])]


def max_pool2d(x: Array, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Array:
    """The largest of each window; the least integer pads, so padding never wins."""
    padded = _padded(x, padding, np.iinfo(x.dtype).min)
    return reduce(np.maximum, _each_offset(_windows(padded, kernel, stride, dilation)))


def sum_pool2d(x: Array, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Array:
    """The int32 sum of each window; zeros pad."""
    padded = _padded(x.astype(np.int64), padding, 0)
    return accumulator(reduce(np.add, _each_offset(_windows(padded, kernel, stride, (1, 1)))))


def _flatten(self: Array, start_dim: int, end_dim: int) -> Array:
    first, last = start_dim % self.ndim, end_dim % self.ndim
    return self.reshape(*self.shape[:first], math.prod(self.shape[first : last + 1]), *self.shape[last + 1 :])


def _squeeze(self: Array, dim: int | Sequence[int]) -> Array:
    """ATen drops only those of the named dimensions whose size is 1."""
    named = {d % self.ndim for d in ([dim] if isinstance(dim, int) else dim)}
    return self.reshape([size for d, size in enumerate(self.shape) if d not in named or size != 1])


def multiply(x: Array, y: Array) -> Array:
    """x * y in int32, either operand broadcast."""
    return accumulator(x.astype(np.int64) * y.astype(np.int64))


def lut(x: Array, table: Array, axis: int) -> Array:
    """table[channel, code], the code of an s8 value counted from -128."""
    codes = x.astype(np.int64) + (128 if x.dtype == np.int8 else 0)
    channels = np.arange(table.shape[0]).reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])
    found: Array = table[channels if table.shape[0] > 1 else 0, codes]
    return found


def lut16(x: Array, table: Array, axis: int) -> Array:
    """The chord between the knots table[channel, i] and table[channel, i + 1], 128 codes apart, rounded half up."""
    index, rest = np.divmod(x.astype(np.int64) + 32768, 128)
    channels = np.arange(table.shape[0]).reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])
    row = channels if table.shape[0] > 1 else 0
    start, end = table[row, index].astype(np.int64), table[row, index + 1].astype(np.int64)
    chord: Array = (start + ((end - start) * rest + 64) // 128).astype(np.int16)
    return chord


def insert_zeros(x: Array, stride: Sequence[int]) -> Array:
    """Each pixel followed by stride - 1 zeros, below and to the right."""
    spread = np.zeros((*x.shape[:2], x.shape[2] * stride[0], x.shape[3] * stride[1]), x.dtype)
    spread[:, :, :: stride[0], :: stride[1]] = x
    return spread


def positions(mask: Array, offset: int, least: int, hidden: int | None) -> Array:
    """How many are true up to each along the last dimension, moved and bounded; a fixed number where the mask is false. int64."""
    counts = np.maximum(mask.cumsum(-1, dtype=np.int64) + offset, least)
    return counts if hidden is None else np.where(mask, counts, np.int64(hidden))


def _slice(self: Array, dim: int, start: int | None, end: int | None, step: int) -> Array:
    index = [slice(None)] * self.ndim
    index[dim] = slice(start, end, step)
    return self[tuple(index)]


def _expand(self: Array, size: Sequence[int], implicit: bool) -> Array:
    shape = [old if new == -1 else new for old, new in zip((1,) * (len(size) - self.ndim) + self.shape, size, strict=True)]
    return np.broadcast_to(self, shape)


def embedding(weight: Array, indices: Array, padding_idx: int, scale_grad_by_freq: bool, sparse: bool) -> Array:
    """The rows that `indices` number.

    Raises:
        ProgramError: one lies outside the table.
    """
    if indices.size and not 0 <= indices.min() <= indices.max() < len(weight):
        raise ProgramError(f"an id is outside the table's {len(weight)} rows", way_on=f"pass ids in [0, {len(weight) - 1}]")
    return weight[indices]


KERNELS: dict[str, Callable[..., Any]] = {
    "fxp.quantize": quantize,
    "fxp.dequantize": dequantize,
    "fxp.conv2d": conv2d,
    "fxp.linear": linear,
    "fxp.requantize": requantize,
    "fxp.add": add,
    "fxp.max_pool2d": max_pool2d,
    "fxp.sum_pool2d": sum_pool2d,
    "fxp.multiply": multiply,
    "fxp.lut": lut,
    "fxp.lut16": lut16,
    "fxp.concat": lambda xs, axis: np.concatenate(xs, axis),
    "fxp.pad2d": lambda x, padding, value: _padded(x, padding, value),
    "fxp.select2d": lambda x, rows, columns: x[:, :, rows][:, :, :, columns],
    "fxp.insert_zeros": insert_zeros,
    "fxp.normalize": normalize,
    "fxp.affine": affine,
    "fxp.rotary": rotary,
    "fxp.matmul": matmul,
    "fxp.softmax": softmax,
    "fxp.attention": attention,
    "fxp.positions": positions,
    "aten.flatten": _flatten,
    "aten.view": lambda self, size: self.reshape(size),
    "aten.reshape": lambda self, shape: self.reshape(shape),
    "aten.permute": lambda self, dims: self.transpose(dims),
    "aten.transpose": lambda self, dim0, dim1: self.swapaxes(dim0, dim1),
    "aten.unsqueeze": lambda self, dim: np.expand_dims(self, dim),
    "aten.squeeze": _squeeze,
    "aten.slice": _slice,
    "aten.select": lambda self, dim, index: self.take(index, dim),
    "aten.expand": _expand,
    "aten.embedding": embedding,
    "aten.contiguous": lambda self, memory_format: np.ascontiguousarray(self),
    "aten.clone": lambda self, memory_format: self.copy(),
    "aten.eq": lambda self, other: self == other,
    "aten.ne": lambda self, other: self != other,
    "aten.lt": lambda self, other: self < other,
    "aten.le": lambda self, other: self <= other,
    "aten.gt": lambda self, other: self > other,
    "aten.ge": lambda self, other: self >= other,
    "aten.logical_and": lambda self, other: self & other,
    "aten.logical_or": lambda self, other: self | other,
    "aten.logical_not": lambda self: ~self,
    "aten.sym_size": lambda self, dim: self.shape[dim],
    "python.add": operator.add,
    "python.sub": operator.sub,
    "python.mul": operator.mul,
    "python.floordiv": operator.floordiv,
    "python.getitem": operator.getitem,
}
"""Every operator that an integer program may hold, by its portable name."""
