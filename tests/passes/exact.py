"""simulated program, input ==> the integers on its quantised edges, by rational arithmetic from its own scales alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from numpy.typing import NDArray
from torch import Tensor, fx

_aten, _fxp = torch.ops.aten, torch.ops.fxp
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """The sum of integers times units; a unit is a number or one a channel, along axis 1 of the integers."""

    parts: tuple[tuple[Integers, tuple[float, ...]], ...]
    rectified: bool = False

    @property
    def alone(self) -> tuple[Integers, tuple[float, ...]]:
        ((integers, unit),) = self.parts
        return integers, unit


def _one(integers: Integers, *unit: float) -> Terms:
    return Terms(((integers, unit),))


def _steps(x: Tensor, scale: Any, qmin: int, qmax: int) -> Integers:
    """clamp(rint(x / scale)) by IEEE float32 division."""
    divided = x.detach().numpy() / np.asarray(scale, np.float32)
    assert divided.dtype == np.float32
    return np.clip(np.rint(divided), qmin, qmax).astype(np.int64)


def dyadic(real: float) -> Fraction:
    """The multiple of 2**-16 that `real` is, up to float64 noise."""
    steps = round(real * 2**16)
    assert steps >= 1
    assert abs(real * 2**16 - steps) <= 1e-11 * steps
    return Fraction(steps, 2**16)


def _multiples(units: list[float]) -> list[Fraction]:
    """b / 2**c for the two units of an add: b has at most 15 bits and c at most 15."""
    c = max(1, min(15, 14 - math.floor(math.log2(float(dyadic(max(units)))))))
    return [Fraction(max(1, round(Fraction(unit) * 2**c)), 2**c) for unit in units]


def _round(terms: Terms, scale: float, qmin: int, qmax: int) -> Integers:
    if len(terms.parts) == 2:
        (a, (one,)), (b, (two,)) = terms.parts
        left, right = _multiples([one / scale, two / scale])
        exact = a.astype(object) * left + b.astype(object) * right
    else:
        integers, unit = terms.alone
        factors = np.array([dyadic(u / scale) for u in unit], object)
        exact = integers.astype(object) * factors.reshape([-1 if d == 1 else 1 for d in range(integers.ndim)])
    low = 0 if terms.rectified else qmin
    rounded = [min(max(round(value), low), qmax) for value in exact.reshape(-1)]  # Fractions round half to even
    return np.array(rounded, np.int64).reshape(exact.shape)


def _windows(x: Integers, kernel: Any, stride: Any, dilation: Any = (1, 1)) -> Integers:
    """[n, channels, rows, columns, kh, kw]."""
    reach = [dilation[d] * (kernel[d] - 1) + 1 for d in (0, 1)]
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return seen[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def _padded(x: Integers, padding: Any, value: int = 0) -> Integers:
    vertical, horizontal = padding[0], padding[-1]
    return np.pad(x, [(0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal)], constant_values=value)


class Exact:
    """An interpreter of simulated programs. `edges` holds the integers of each quantised value by the name of its node."""

    def __init__(self, program: Program, x: Tensor) -> None:
        self.tensors, self.x = program.tensors, x
        self.values: dict[fx.Node, Terms] = {}
        self.edges: dict[str, Integers] = {}
        for node in program.graph.nodes:
            if node.op == "call_function" and node.target not in (_fxp.fake_quantize_channels.default, _aten.sym_size.int):
                self.values[node] = _RULES[node.target](self, node, arguments(node))

    def quantize(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        grid = named["scale"], named["qmin"], named["qmax"]
        site = named["x"]
        integers = _steps(self.x, *grid) if site.op == "placeholder" else _round(self.values[site], *grid)
        self.edges[site.name] = integers
        return _one(integers, named["scale"])

    def _weight(self, named: dict[str, Any]) -> tuple[Integers, Integers, tuple[float, ...]]:
        """Integer weight, integer bias [channels] and the units of their products."""
        fake = arguments(named["weight"])
        scales = self.tensors[fake["scale"].target]
        weight = self.tensors[fake["x"].target]
        spread = scales.float().numpy().reshape(-1, *[1] * (weight.dim() - 1))
        _, (unit,) = self.values[named["input"]].alone
        units = tuple(unit * scale for scale in scales.tolist())
        bias = [0.0] * len(units) if named["bias"] is None else self.tensors[named["bias"].target].tolist()
        whole = np.array([round(Fraction(b) / Fraction(u)) for b, u in zip(bias, units, strict=True)], np.int64)
        return _steps(weight, spread, fake["qmin"], fake["qmax"]), whole, units

    def linear(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        weight, bias, units = self._weight(named)
        x, _ = self.values[named["input"]].alone
        return _one(x @ weight.T + bias, *units)

    def conv2d(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        weight, bias, units = self._weight(named)
        x, _ = self.values[named["input"]].alone
        seen = _windows(_padded(x, named["padding"]), weight.shape[2:], named["stride"], named["dilation"])
        inputs, outputs = np.split(seen, named["groups"], 1), np.split(weight, named["groups"], 0)
        sums = [np.einsum("ncyxhw,ochw->noyx", i, o) for i, o in zip(inputs, outputs, strict=True)]
        return _one(np.concatenate(sums, 1) + bias[:, None, None], *units)

    def add(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        return Terms((*self.values[named["self"]].parts, *self.values[named["other"]].parts))

    def relu(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        return replace(self.values[named["self"]], rectified=True)

    def avg_pool2d(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        kernel = named["kernel_size"]
        return self._average(named, kernel, named["stride"] or kernel, named["padding"], named["divisor_override"])

    def adaptive(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        x, _ = self.values[named["self"]].alone
        kernel = [x.shape[2 + d] // named["output_size"][d] for d in (0, 1)]
        return self._average(named, kernel, kernel, [0, 0], None)

    def mean(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        x, (unit,) = self.values[named["self"]].alone
        return _one(x.sum((2, 3), keepdims=named["keepdim"]), unit / (x.shape[2] * x.shape[3]))

    def _average(self, named: dict[str, Any], kernel: Any, stride: Any, padding: Any, divisor: int | None) -> Terms:
        x, (unit,) = self.values[named["self"]].alone
        sums = _windows(_padded(x, padding), kernel, stride).sum((4, 5))
        return _one(sums, unit / (divisor or kernel[0] * kernel[1]))

    def max_pool2d(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        """Padded so far that no window of ceil mode ends outside; the padding is below every value."""
        x, unit = self.values[named["self"]].alone
        kernel, stride = named["kernel_size"], named["stride"] or named["kernel_size"]
        padded = _padded(x, named["padding"], -(10**6))
        padded = np.pad(padded, [(0, 0), (0, 0), (0, stride[0]), (0, stride[1])], constant_values=-(10**6))
        rows, columns = node.meta["val"].shape[2:]
        return _one(_windows(padded, kernel, stride, named["dilation"]).max((4, 5))[:, :, :rows, :columns], *unit)

    def flatten(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        x, unit = self.values[named["self"]].alone
        return _one(x.reshape(len(x), -1), *unit)


_RULES: dict[Any, Callable[[Exact, fx.Node, dict[str, Any]], Terms]] = {
    _fxp.fake_quantize.default: Exact.quantize,
    _aten.linear.default: Exact.linear,
    _aten.conv2d.default: Exact.conv2d,
    _aten.add.Tensor: Exact.add,
    _aten.relu.default: Exact.relu,
    _aten.avg_pool2d.default: Exact.avg_pool2d,
    _aten.adaptive_avg_pool2d.default: Exact.adaptive,
    _aten.mean.dim: Exact.mean,
    _aten.max_pool2d.default: Exact.max_pool2d,
    _aten.flatten.using_ints: Exact.flatten,
    _aten.view.default: Exact.flatten,
}
