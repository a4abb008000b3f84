"""Integer programs whose kernels are AMX tiles, filled or not, and what they give for numbers at their extremes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from fxpress_ir import Edit, Program
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "backends" / "tvm"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "backends" / "tvm" / "kernels"))
from amx_cases import transformer_block
from several import several
from support import residual_net
from test_conv2d_amx import CONVOLUTIONS
from test_head_amx import attending, extreme
from tvm_cases import S8, S16, U8, Body, convolution, linear

LINEARS: tuple[tuple[tuple[int, ...], int], ...] = (
    # the shape of the inputs without the batch, outputs
    ((5, 70), 33),
    ((17, 64), 16),
    ((4, 200), 97),
    ((7, 6, 90), 1),
    ((4, 1040), 1030),
    ((31, 129), 50),
    ((64, 256), 64),
)
BYTES = (torch.int8, torch.uint8)


def linears() -> Program:
    """To u8, s8, 32 and 16 bits; weights of one of them are more than a megabyte."""
    return _side_by_side([(shape, BYTES[n % 2], linear(shape[-1], outputs, n + 1)) for n, (shape, outputs) in enumerate(LINEARS)])


def convolutions() -> Program:
    """1x1, 3x3, 7x7 over three channels, strides, dilations, groups, one-sided paddings."""
    kinds = (U8, S8, None, S16)
    cases = [case for _, case in CONVOLUTIONS]
    return _side_by_side(
        [((case[0], *case[3]), BYTES[n // 2 % 2], convolution(case, n, kinds[n % 4])) for n, case in enumerate(cases)],
    )


def _side_by_side(cases: Sequence[tuple[Sequence[int], torch.dtype, Body]]) -> Program:
    """An input and an output for each; their first dimension is the batch."""

    def body(edit: Edit, *xs: torch.fx.Node) -> list[torch.fx.Node]:
        return [case(edit, x) for x, (_, _, case) in zip(xs, cases, strict=True)]

    return several([(("batch", *shape), dtype) for shape, dtype, _ in cases], body)


PROGRAMS: dict[str, tuple[Callable[[], Program], tuple[int, ...]]] = {
    # and batches
    "linear": (linears, (1, 2, 19)),
    "conv2d": (convolutions, (1, 3)),
    "attention": (attending, (1, 2)),
    "transformer": (transformer_block, (1, 3)),
    "residual": (lambda: residual_net(channels=32, size=12), (1, 3)),
}


def vectors(program: Program, batches: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Files for `run.cpp`: inputs of each batch drawn from extremes, of two all least and all largest, and the program's outputs."""
    generator = torch.Generator().manual_seed(11)
    values = [node.meta["val"] for node in program.placeholders()]
    kinds: list[tuple[int, str]] = [*((batch, "drawn") for batch in batches), (2, "min"), (2, "max")]
    for batch, kind in kinds:
        inputs = [_drawn(generator, (batch, *x.shape[1:]), x.dtype, kind) for x in values]
        named = [("input", inputs), ("output", program.run(*inputs))]
        yield {f"{name}.{number}": x.contiguous() for name, xs in named for number, x in enumerate(xs)}


def _drawn(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, kind: str) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator) * 3
    if kind == "drawn" or dtype in (torch.bool, torch.int32):
        return extreme(generator, shape, dtype)
    return torch.full(shape, getattr(torch.iinfo(dtype), kind), dtype=dtype)
