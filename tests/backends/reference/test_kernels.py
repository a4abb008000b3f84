"""Each kernel against the torch operator, and its rounding against exact rationals."""

from __future__ import annotations

import ast
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.reference import KERNELS, kernels
from fxpress_ir.errors import ProgramError
from fxpress_ir.ops import INTEGER_OPERATORS, LOGIC_OPERATORS, LOOKUP_OPERATORS, SHAPE_OPERATORS, SIZE_OPERATORS
from fxpress_ir.verify import _BUILTINS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

fxp, aten = torch.ops.fxp, torch.ops.aten
exact = settings(max_examples=60, deadline=None, derandomize=True)
RANGES = ((-128, 127), (0, 255), (0, 127), (-32768, 32767))
INT32 = (-(2**31), 2**31 - 1)


def same(result: Any, expected: torch.Tensor) -> None:
    assert result.dtype == expected.numpy().dtype
    np.testing.assert_array_equal(result, expected.numpy())


def test_every_operator_has_a_kernel() -> None:
    targets = (*INTEGER_OPERATORS, *SHAPE_OPERATORS, *LOOKUP_OPERATORS, *LOGIC_OPERATORS, *SIZE_OPERATORS)
    aten_and_fxp = {f"{target.namespace}.{target._opname}" for target in targets}
    assert set(KERNELS) == aten_and_fxp | {f"python.{function.__name__}" for function in _BUILTINS}


FILES = sorted({kernel.__code__.co_filename for kernel in KERNELS.values() if hasattr(kernel, "__code__")})


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)
def test_kernels_share_no_code_with_the_torch_operators(file: str) -> None:
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in imported if name and name.split(".")[0] in ("torch", "fxpress_ir")} - {"fxpress_ir.errors"}


@st.composite
def requantizations(draw: st.DrawFn) -> tuple[list[int], int, int, tuple[int, int]]:
    """Accumulators anywhere in int32, at its ends, and beside the ties and bounds of the result."""
    c, b = draw(st.integers(1, 16)), draw(st.integers(1, 2**15 - 1))
    qmin, qmax = draw(st.sampled_from(RANGES))
    beside_ties = st.builds(lambda y, step: ((2 * y + 1) << (c - 1)) // b + step, st.integers(qmin - 2, qmax + 2), st.integers(-1, 1))
    anywhere = st.one_of(st.integers(*INT32), st.sampled_from(INT32), beside_ties.filter(lambda acc: INT32[0] <= acc <= INT32[1]))
    return draw(st.lists(anywhere, min_size=1, max_size=40)), b, c, (qmin, qmax)


@exact
@given(requantizations())
def test_requantize_is_the_rational_rounded_half_to_even(case: tuple[list[int], int, int, tuple[int, int]]) -> None:
    accumulators, b, c, (qmin, qmax) = case
    expected = [min(max(round(Fraction(acc) * b / 2**c), qmin), qmax) for acc in accumulators]
    x = np.array([accumulators], np.int32)
    assert kernels.requantize(x, np.array([b], np.int32), c, qmin, qmax, 1, "int32").tolist() == [expected]


@pytest.mark.parametrize("c", range(1, 17))
def test_requantize_agrees_with_torch_at_every_shift(c: int) -> None:
    generator = np.random.default_rng(c)
    b = generator.integers(1, 2**15, 64, dtype=np.int32)
    b[:4] = (1, 2, 2**14, 2**15 - 1)
    ties = ((2 * generator.integers(-300, 300, (64, 200)) + 1) << (c - 1)) // b[:, None]
    x = np.concatenate([generator.integers(*INT32, (64, 200)), ties, np.broadcast_to(INT32, (64, 2))], 1).astype(np.int32)
    for qmin, qmax in RANGES if c <= 15 else RANGES[:3]:
        for values, axis in ((x, 0), (np.ascontiguousarray(x.T), -1)):
            expected = fxp.requantize(torch.from_numpy(values), torch.from_numpy(b), c, qmin, qmax, axis, torch.int32)
            same(kernels.requantize(values, b, c, qmin, qmax, axis, "int32"), expected)


@exact
@given(st.integers(1, 15), st.integers(1, 2**15 - 1), st.integers(1, 2**15 - 1), st.sampled_from(RANGES[:2]))
def test_add_is_one_rounding(c: int, bx: int, by: int, limits: tuple[int, int]) -> None:
    x, y = np.array([-128, -127, -1, 0, 1, 126, 127], np.int8), np.array([0, 1, 2, 127, 128, 254, 255], np.uint8)[:, None]
    dtype, name = (torch.int8, "int8") if limits[0] else (torch.uint8, "uint8")
    result = kernels.add(x, y, bx, by, c, *limits, name)
    same(result, fxp.add(torch.from_numpy(x), torch.from_numpy(y), bx, by, c, *limits, dtype))
    exactly = [[round(Fraction(int(p) * bx + int(q) * by, 2**c)) for p in x] for q in y[:, 0]]
    assert result.tolist() == np.clip(exactly, *limits).tolist()


def integers(draw: st.DrawFn, shape: tuple[int, ...], low: int, high: int, dtype: type) -> NDArray[Any]:
    """Random integers, or the two ends only."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        return generator.choice(np.array([low, high], dtype), shape)
    return generator.integers(low, high + 1, shape).astype(dtype)


def image(draw: st.DrawFn, channels: int, height: int, width: int) -> NDArray[Any]:
    shape = (draw(st.integers(1, 3)), channels, height, width)
    return integers(draw, shape, -128, 127, np.int8) if draw(st.booleans()) else integers(draw, shape, 0, 255, np.uint8)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, ...]:
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, stride, dilation = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    padding = [draw(st.integers(0, 3)) for _ in range(4)]
    height, width = (dilation[d] * (kernel[d] - 1) + 1 + draw(st.integers(0, 5)) for d in (0, 1))
    weight = integers(draw, (outputs, inputs // groups, *kernel), -127, 127, np.int8)
    bias = integers(draw, (outputs,), -(2**30), 2**30, np.int32) if draw(st.booleans()) else None
    return image(draw, inputs, height, width), weight, bias, stride, padding, dilation, groups


@exact
@given(convolutions())
def test_conv2d_with_groups_dilation_and_uneven_padding(case: tuple[Any, ...]) -> None:
    x, weight, bias, *rest = case
    tensors = [None if array is None else torch.from_numpy(array) for array in (x, weight, bias)]
    same(kernels.conv2d(x, weight, bias, *rest), fxp.conv2d(*tensors, *rest))


@exact
@given(st.data())
def test_linear_on_any_rank(data: st.DataObject) -> None:
    lead = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    inputs, outputs = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    x = integers(data.draw, (*lead, inputs), 0, 255, np.uint8)
    weight = integers(data.draw, (outputs, inputs), -127, 127, np.int8)
    bias = integers(data.draw, (outputs,), -(2**30), 2**30, np.int32)
    same(kernels.linear(x, weight, bias), fxp.linear(torch.from_numpy(x), torch.from_numpy(weight), torch.from_numpy(bias)))
    same(kernels.linear(x, weight, None), fxp.linear(torch.from_numpy(x), torch.from_numpy(weight), None))


@exact
@given(st.data())
def test_pools_with_uneven_padding(data: st.DataObject) -> None:
    kernel, stride, dilation = ([data.draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    padding = [data.draw(st.integers(0, kernel[d % 2] - 1)) for d in range(4)]
    x = image(data.draw, 2, *(dilation[d] * (kernel[d] - 1) + 1 + data.draw(st.integers(0, 4)) for d in (0, 1)))
    same(kernels.max_pool2d(x, kernel, stride, padding, dilation), fxp.max_pool2d(torch.from_numpy(x), kernel, stride, padding, dilation))
    same(kernels.sum_pool2d(x, kernel, stride, padding), fxp.sum_pool2d(torch.from_numpy(x), kernel, stride, padding))


def test_an_accumulator_beyond_int32_is_an_error_not_a_wrap() -> None:
    x, weight = np.full((1, 66_400), 255, np.uint8), np.full((1, 66_400), 127, np.int8)
    with pytest.raises(ProgramError, match="an accumulator leaves int32"):
        kernels.linear(x, weight, None)


@pytest.mark.parametrize("scale", [0.03, 2.0**-7, 1e-3, 7.3])
def test_borders_round_and_saturate_like_ieee(scale: float) -> None:
    generator = np.random.default_rng(3)
    ties = (np.arange(-300, 300) + 0.5) * scale
    x = np.concatenate([generator.normal(0, 60 * scale, 20_000), ties, [0.0, -0.0, 3e38, -3e38, 1e-40]]).astype(np.float32)
    for qmin, qmax, dtype in ((-128, 127, torch.int8), (0, 255, torch.uint8), (-32768, 32767, torch.int32)):
        result = kernels.quantize(x, scale, qmin, qmax, str(dtype).removeprefix("torch."))
        same(result, fxp.quantize(torch.from_numpy(x), scale, qmin, qmax, dtype))
        same(kernels.dequantize(result, scale), fxp.dequantize(torch.from_numpy(result), scale))
    wide = np.array([*INT32, 2**24 + 1, -(2**24) - 3], np.int32)  # the conversion to float32 rounds
    same(kernels.dequantize(wide, scale), fxp.dequantize(torch.from_numpy(wide), scale))


@pytest.mark.parametrize(
    ("name", "overload", "arguments"),
    [
        ("flatten", "using_ints", {"start_dim": 1, "end_dim": -1}),
        ("flatten", "using_ints", {"start_dim": -3, "end_dim": 2}),
        ("view", "default", {"size": [6, -1]}),
        ("reshape", "default", {"shape": [2, 20, 3]}),
        ("permute", "default", {"dims": [0, -1, 1, 2]}),
        ("transpose", "int", {"dim0": 1, "dim1": -1}),
        ("unsqueeze", "default", {"dim": -1}),
        ("squeeze", "dim", {"dim": 1}),
        ("squeeze", "dim", {"dim": 2}),
        ("squeeze", "dims", {"dim": [1, -1]}),
        ("contiguous", "default", {"memory_format": None}),
        ("clone", "default", {"memory_format": None}),
    ],
)
def test_shape_operators_move_values_as_aten_does(name: str, overload: str, arguments: dict[str, Any]) -> None:
    x = torch.randint(-128, 128, (2, 1, 3, 20), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    kept = {key: value for key, value in arguments.items() if value is not None}
    same(KERNELS[f"aten.{name}"](self=x.numpy(), **arguments), getattr(getattr(aten, name), overload)(x, **kept))
    assert KERNELS["aten.sym_size"](self=x.numpy(), dim=-1) == 20
