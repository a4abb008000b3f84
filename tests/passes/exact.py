"""simulated program, input ==> the integers on its quantised edges, by rational arithmetic from its own scales alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from functions import FUNCTIONS
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from numpy.typing import NDArray
from torch import Tensor, fx

_aten, _fxp = torch.ops.aten, torch.ops.fxp
Integers = NDArray[np.int64]
Units = tuple[float, ...]


@dataclass(frozen=True)
class Grid:
    """scale * q for qmin <= q <= qmax."""

    scale: float
    qmin: int
    qmax: int

    def nearest(self, real: float) -> int:
        """The q nearest to a real number, half to even."""
        if math.isinf(real):
            return self.qmax if real > 0 else self.qmin
        return min(max(round(Fraction(real) / Fraction(self.scale)), self.qmin), self.qmax)


@dataclass(frozen=True)
class Terms:
    """The sum of integers times units; a unit is a number or one a channel, along `axis` of the integers.

    A quantised value has a grid; an accumulator has none, but bounds where a clamp follows it, and a divisor for each
    pixel, [height, width], where they differ.
    """

    parts: tuple[tuple[Integers, Units], ...]
    grid: Grid | None = None
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    axis: int = 1
    divisors: Integers | None = None

    @property
    def alone(self) -> tuple[Integers, Units]:
        ((integers, unit),) = self.parts
        return integers, unit

    def moved(self, integers: Integers) -> Terms:
        """The same grid with other integers."""
        return replace(self, parts=((integers, self.alone[1]),))


@dataclass(frozen=True)
class Reals:
    """A function of a quantised value, in float64."""

    values: NDArray[np.float64]


@dataclass(frozen=True)
class Joined:
    """Quantised values that become one."""

    parts: tuple[Terms, ...]
    axis: int


def _one(integers: Integers, *unit: float) -> Terms:
    return Terms(((integers, unit),))


def _steps(x: NDArray[Any], scale: Any, qmin: int, qmax: int) -> Integers:
    """clamp(rint(x / scale)) by IEEE float32 division, as at a border."""
    divided = x.astype(np.float32) / np.asarray(scale, np.float32)
    assert divided.dtype == np.float32
    return np.clip(np.rint(divided), qmin, qmax).astype(np.int64)


def dyadic(real: float) -> Fraction:
    """The multiple of 2**-16 that `real` is, up to float64 noise."""
    steps = round(real * 2**16)
    assert steps >= 1
    assert abs(real * 2**16 - steps) <= 1e-11 * steps
    return Fraction(steps, 2**16)


def multiples(factors: list[float], limit: int) -> list[Fraction]:
    """b / 2**c for factors that share c: b has at most 15 bits and c is at most `limit`."""
    largest = max(factors)
    c = max(1, min(limit, 14 - math.floor(math.log2(largest))))
    c -= int(c > 1 and round(Fraction(largest) * 2**c) >= 2**15)
    return [Fraction(max(1, round(Fraction(factor) * 2**c)), 2**c) for factor in factors]


def _clamped(exact: NDArray[Any], low: int, high: int) -> Integers:
    rounded = [min(max(round(value), low), high) for value in exact.reshape(-1)]  # Fractions round half to even
    return np.array(rounded, np.int64).reshape(exact.shape)


def _round(terms: Terms, grid: Grid) -> Integers:
    """An accumulator, bounded, as steps of a grid."""
    if len(terms.parts) == 2:
        (a, (one,)), (b, (two,)) = terms.parts
        assert dyadic(max(one, two) / grid.scale)
        left, right = multiples([one / grid.scale, two / grid.scale], 15)
        exact = a.astype(object) * left + b.astype(object) * right
    elif terms.divisors is not None:
        integers, (one,) = terms.alone
        exact = integers.astype(object) * _shares(terms.divisors, one / grid.scale)
    else:
        integers, unit = terms.alone
        factors = np.array([dyadic(u / grid.scale) for u in unit], object)
        exact = integers.astype(object) * factors.reshape([-1 if d == terms.axis % integers.ndim else 1 for d in range(integers.ndim)])
    return _clamped(exact, *map(grid.nearest, terms.bounds))


def _shares(divisors: Integers, unit: float) -> NDArray[Any]:
    """unit / divisor: a dyadic for the most frequent one or one of those, rounded for the others."""
    found, frequency = np.unique(divisors, return_counts=True)
    shares = {divisor: multiples([unit / divisor], 16)[0] for divisor in found.tolist()}
    exact = [abs(shares[divisor] * divisor / Fraction(unit) - 1) < 1e-9 for divisor in found[frequency == frequency.max()].tolist()]
    assert any(exact)
    return np.vectorize(shares.__getitem__, otypes=[object])(divisors)  # type: ignore[no-any-return]


def _join(joined: Joined, grid: Grid) -> Integers:
    """Every part at the scale of the whole, its factor rounded to 15 bits."""
    parts = []
    for part in joined.parts:
        integers, (unit,) = part.alone
        (factor,) = multiples([unit / grid.scale], 16)
        parts.append(_clamped(integers.astype(object) * factor, grid.qmin, grid.qmax))
    return np.concatenate(parts, joined.axis)


def _windows(x: Integers, kernel: Any, stride: Any, dilation: Any = (1, 1)) -> Integers:
    """[n, channels, rows, columns, kh, kw]."""
    reach = [dilation[d] * (kernel[d] - 1) + 1 for d in (0, 1)]
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return seen[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def _padded(x: Integers, rows: tuple[int, int], columns: tuple[int, int], **options: Any) -> Integers:
    return np.pad(x, [(0, 0), (0, 0), rows, columns], **options)


def _around(padding: Any, kernel: Any, dilation: Any) -> list[tuple[int, int]]:
    """(before, after) along both axes; of an odd number of "same" pixels more go after."""
    if padding == "same":
        total = [dilation[d] * (kernel[d] - 1) for d in (0, 1)]
        return [(t // 2, t - t // 2) for t in total]
    return [(p, p) for p in ((0, 0) if padding == "valid" else (padding[0], padding[-1]))]


def _divided(sums: Integers, divisors: Integers, unit: float) -> Terms:
    """Sums times a unit over the divisors, [height, width]."""
    first = int(divisors[0, 0])
    return _one(sums, unit / first) if (divisors == first).all() else Terms(((sums, (unit,)),), divisors=divisors)


class Exact:
    """An interpreter of simulated programs. `edges` holds the integers of each quantised value by the name of its node."""

    def __init__(self, program: Program, x: Tensor) -> None:
        self.tensors, self.x = program.tensors, x
        self.values: dict[fx.Node, Any] = {}
        self.edges: dict[str, Integers] = {}
        for node in program.graph.nodes:
            if node.op == "call_function" and node.target is not _fxp.fake_quantize_channels.default:
                self.values[node] = self._value(node)

    def _value(self, node: fx.Node) -> Any:
        if not isinstance(node.target, torch._ops.OpOverload):
            return node.target(*(self.values.get(arg, arg) for arg in node.args))  # type: ignore[operator]
        named = arguments(node)
        if node.target in _RULES:
            return _RULES[node.target](self, node, named)
        return self._function(node) if node.target in FUNCTIONS else self._move(node)

    def _given(self, site: fx.Node) -> Tensor:
        """The input or a tensor of the program."""
        return self.x if site.op == "placeholder" else self.tensors[str(site.target)].detach()

    def quantize(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        grid, site = Grid(named["scale"], named["qmin"], named["qmax"]), named["x"]
        value = self.values[site] if site.op == "call_function" else self._given(site)
        if isinstance(value, Tensor):
            integers = _steps(value.numpy(), grid.scale, grid.qmin, grid.qmax)
        elif isinstance(value, Reals):
            integers = _steps(value.values, grid.scale, grid.qmin, grid.qmax)
        else:
            integers = _join(value, grid) if isinstance(value, Joined) else _round(value, grid)
        self.edges[site.name] = integers
        return Terms(((integers, (grid.scale,)),), grid)

    def size(self, node: fx.Node, named: dict[str, Any]) -> int:
        source = named["self"]
        return int(self.x.shape[named["dim"]] if source.op == "placeholder" else self.values[source].alone[0].shape[named["dim"]])

    def _reals(self, value: Any) -> Any:
        """A value as float64; what is no value stays. Codes become reals by one float32 product, as in a simulation."""
        if isinstance(value, fx.Node) and value.op == "get_attr":
            return self.tensors[str(value.target)].detach().double().numpy()
        value = self.values.get(value, value) if isinstance(value, fx.Node) else value
        if isinstance(value, Terms):
            integers, (unit,) = value.alone
            return (integers.astype(np.float32) * np.float32(unit)).astype(np.float64)
        if isinstance(value, float):
            return float(np.float32(value))  # kernels take numbers in the type of their tensor
        return value.values if isinstance(value, Reals) else value

    def _function(self, node: fx.Node) -> Terms | Reals:
        """A clamp of an accumulator is its bounds; every other function is one of real numbers."""
        first = self.values.get(node.args[0])  # type: ignore[call-overload]
        if isinstance(first, Terms) and first.grid is None:
            low, high = (float(FUNCTIONS[node.target](np.float64(end), *node.args[1:])) for end in (float("-inf"), float("inf")))
            return replace(first, bounds=(low, high))
        return Reals(FUNCTIONS[node.target](*map(self._reals, node.args), **node.kwargs))

    def _pair(self, node: fx.Node) -> tuple[Terms, Terms] | None:
        """The operands of a node on two quantised values; None where it is a function of one."""
        found = [self.values.get(arg) if isinstance(arg, fx.Node) else None for arg in node.args[:2]]
        pair = [value for value in found if isinstance(value, Terms)]
        return None if len(pair) < 2 or pair[0] is pair[1] else (pair[0], pair[1])

    def add(self, node: fx.Node, named: dict[str, Any]) -> Terms | Reals:
        pair = self._pair(node)
        if pair is None:
            return self._function(node)
        (x, one), (y, two) = (terms.alone for terms in pair)
        sign = (-1 if node.target is _aten.sub.Tensor else 1) * named["alpha"]
        return Terms(((x, one), (sign * y, two)))

    def multiply(self, node: fx.Node, named: dict[str, Any]) -> Terms | Reals:
        pair = self._pair(node)
        if pair is None:
            return self._function(node)
        (x, (one,)), (y, (two,)) = (terms.alone for terms in pair)
        return _one(x * y, one * two)

    def _weight(self, named: dict[str, Any], repeats: int = 1) -> tuple[Integers, Integers, Units]:
        """Integer weight, integer bias [channels] and the units of their products."""
        fake = arguments(named["weight"])
        scales, weight = self.tensors[fake["scale"].target], self.tensors[fake["x"].target]
        spread = scales.float().numpy().reshape([-1 if d == fake["axis"] else 1 for d in range(weight.dim())])
        _, (unit,) = self.values[named["input"]].alone
        units = tuple(unit * scale for scale in scales.tolist()) * repeats
        bias = [0.0] * len(units) if named["bias"] is None else self.tensors[named["bias"].target].tolist()
        whole = np.array([round(Fraction(b) / Fraction(u)) for b, u in zip(bias, units, strict=True)], np.int64)
        return _steps(weight.detach().numpy(), spread, fake["qmin"], fake["qmax"]), whole, units

    def matmul(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        (x, (one,)), (y, (two,)) = (self.values[named[operand]].alone for operand in ("self", "other"))
        return replace(_one(x @ y, one * two), axis=-1)

    def linear(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        weight, bias, units = self._weight(named)
        x, _ = self.values[named["input"]].alone
        return replace(_one(x @ weight.T + bias, *units), axis=-1)

    def conv2d(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        weight, bias, units = self._weight(named)
        x, _ = self.values[named["input"]].alone
        padded = _padded(x, *_around(named["padding"], weight.shape[2:], named["dilation"]))
        seen = _windows(padded, weight.shape[2:], named["stride"], named["dilation"])
        inputs, outputs = np.split(seen, named["groups"], 1), np.split(weight, named["groups"], 0)
        sums = [np.einsum("ncyxhw,ochw->noyx", i, o) for i, o in zip(inputs, outputs, strict=True)]
        return _one(np.concatenate(sums, 1) + bias[:, None, None], *units)

    def conv_transpose2d(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        """Every input pixel adds the kernel times itself to the output, from y * stride - padding on."""
        weight, bias, units = self._weight(named, named["groups"])
        x, _ = self.values[named["input"]].alone
        stride, padding, dilation, extra = (named[key] for key in ("stride", "padding", "dilation", "output_padding"))
        size = [(x.shape[2 + d] - 1) * stride[d] + dilation[d] * (weight.shape[2 + d] - 1) + 1 + extra[d] for d in (0, 1)]
        canvas = np.zeros([len(x), len(units), *size], np.int64)
        for ky, kx in np.ndindex(*weight.shape[2:]):
            pairs = zip(np.split(x, named["groups"], 1), np.split(weight[:, :, ky, kx], named["groups"], 0), strict=True)
            added = np.concatenate([np.einsum("nchw,co->nohw", i, w) for i, w in pairs], 1)
            top, left = ky * dilation[0], kx * dilation[1]
            rows, columns = ((x.shape[2 + d] - 1) * stride[d] + 1 for d in (0, 1))
            canvas[:, :, top : top + rows : stride[0], left : left + columns : stride[1]] += added
        cut = canvas[:, :, padding[0] : size[0] - padding[0], padding[1] : size[1] - padding[1]]
        return _one(cut + bias[:, None, None], *units)

    def nearest(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        terms = self.values[named["input"]]
        x, _ = terms.alone
        factors = [node.meta["val"].shape[d] // x.shape[d] for d in (2, 3)]
        return terms.moved(x.repeat(factors[0], 2).repeat(factors[1], 3))

    def bilinear(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        """Output i lies at (i + 1/2) / f - 1/2 between two inputs, or on the first or the last."""
        x, (unit,) = self.values[named["input"]].alone
        for axis in (2, 3):
            count, f = x.shape[axis], node.meta["val"].shape[axis] // x.shape[axis]
            whole = 2 * f if f % 2 == 0 else f  # the denominator of all weights
            place = np.maximum((2 * np.arange(count * f) + 1 - f) * whole // (2 * f), 0)
            first, share = place // whole, (place % whole).reshape([-1 if d == axis else 1 for d in range(4)])
            x = x.take(first, axis) * (whole - share) + x.take(np.minimum(first + 1, count - 1), axis) * share
            unit /= whole
        return _one(x, unit)

    def pad(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        terms = self.values[named["self"]]
        left, right, top, bottom = (*named["pad"], 0, 0)[:4]
        modes = {"constant": {"constant_values": terms.grid.nearest(named["value"] or 0.0)}, "reflect": {}, "replicate": {}}
        mode = {"replicate": "edge"}.get(named["mode"], named["mode"])
        return terms.moved(_padded(terms.alone[0], (top, bottom), (left, right), mode=mode, **modes[named["mode"]]))

    def concat(self, node: fx.Node, named: dict[str, Any]) -> Joined:
        return Joined(tuple(self.values[part] for part in named["tensors"]), named["dim"])

    def avg_pool2d(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        """Zeros after the padding hold what the windows of ceil mode see beyond it; what counts is a sum over ones."""
        x, (unit,) = self.values[named["self"]].alone
        kernel, (rows, columns) = named["kernel_size"], node.meta["val"].shape[2:]
        around = _around(named["padding"], kernel, (1, 1))

        def sums(image: Integers) -> Integers:
            beyond = _padded(image, (0, kernel[0]), (0, kernel[-1]))
            return _windows(beyond, kernel, named["stride"] or kernel).sum((4, 5))[:, :, :rows, :columns]  # type: ignore[no-any-return]

        counted = _padded(np.ones_like(x[:1, :1]), *around, constant_values=int(named["count_include_pad"]))
        given = named["divisor_override"]
        divisors = np.full((rows, columns), given) if given else sums(counted)[0, 0]
        return _divided(sums(_padded(x, *around)), divisors, unit)

    def adaptive(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        x, (unit,) = self.values[named["self"]].alone
        size, out = x.shape[2:], named["output_size"]
        parts = [[slice(i * size[d] // out[d], math.ceil((i + 1) * size[d] / out[d])) for i in range(out[d])] for d in (0, 1)]
        blocks = [[x[:, :, rows, columns] for columns in parts[1]] for rows in parts[0]]
        sums = np.stack([np.stack([block.sum((2, 3)) for block in row], -1) for row in blocks], 2)
        return _divided(sums, np.array([[block[0, 0].size for block in row] for row in blocks]), unit)

    def mean(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        x, (unit,) = self.values[named["self"]].alone
        return _one(x.sum((2, 3), keepdims=named["keepdim"]), unit / (x.shape[2] * x.shape[3]))

    def max_pool2d(self, node: fx.Node, named: dict[str, Any]) -> Terms:
        """Padded so far that no window of ceil mode ends outside; the padding is below every value."""
        terms = self.values[named["self"]]
        kernel, stride = named["kernel_size"], named["stride"] or named["kernel_size"]
        (top, bottom), (left, right) = _around(named["padding"], kernel, (1, 1))
        padded = _padded(terms.alone[0], (top, bottom + stride[0]), (left, right + stride[1]), constant_values=-(10**6))
        rows, columns = node.meta["val"].shape[2:]
        return terms.moved(_windows(padded, kernel, stride, named["dilation"]).max((4, 5))[:, :, :rows, :columns])  # type: ignore[no-any-return]

    def _move(self, node: fx.Node) -> Any:
        """The operator itself, on the integers; several results are a list."""
        terms = self.values[node.args[0]]  # type: ignore[index]
        rest = fx.node.map_arg(node.args[1:], self.values.__getitem__)
        moved = node.target(torch.from_numpy(terms.alone[0].copy()), *rest, **node.kwargs)  # type: ignore[operator]
        return terms.moved(moved.numpy()) if isinstance(moved, Tensor) else [terms.moved(part.numpy()) for part in moved]


_RULES: dict[Any, Callable[[Exact, fx.Node, dict[str, Any]], Any]] = {
    _fxp.fake_quantize.default: Exact.quantize,
    _aten.sym_size.int: Exact.size,
    _aten.matmul.default: Exact.matmul,
    _aten.linear.default: Exact.linear,
    _aten.conv2d.default: Exact.conv2d,
    _aten.conv2d.padding: Exact.conv2d,
    _aten.conv_transpose2d.input: Exact.conv_transpose2d,
    _aten.add.Tensor: Exact.add,
    _aten.sub.Tensor: Exact.add,
    _aten.mul.Tensor: Exact.multiply,
    _aten.avg_pool2d.default: Exact.avg_pool2d,
    _aten.adaptive_avg_pool2d.default: Exact.adaptive,
    _aten.mean.dim: Exact.mean,
    _aten.max_pool2d.default: Exact.max_pool2d,
    _aten.upsample_nearest2d.vec: Exact.nearest,
    _aten.upsample_bilinear2d.vec: Exact.bilinear,
    _aten.pad.default: Exact.pad,
    _aten.cat.default: Exact.concat,
}
