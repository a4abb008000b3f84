"""Kernels of a card against plain loops of the same layer, compiled for the same CPU: time over time, interleaved, with its interval.

Run: ``python benchmarks/kernels.py [--target tvm:x86-64-avx2] [--threads 1] [--rounds 60]``. Shapes of MobileNetV2, ResNet-50 and BERT-base
at batch 1: depthwise convolutions, a dense one, a linear, both products of an attention, the attention whole, and a table of bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress_backends.contract import Target
from fxpress_backends.latency import Table
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.choose import matched
from fxpress_backends.tvm.cpu import LEVELS
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.timing import rounds
from torch import nn

fxp = torch.ops.fxp
TURNS = 20
HEAD = ("layer", "kernel", "time", "loops", "kernel / loops [95 %]")
Layer = tuple[str, Sequence[tuple[int, ...]], Callable[..., Any]]


def _integers(*shape: int, low: int = -127, high: int = 128) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(0))


def _requantized(edit: Any, acc: Any, axis: int) -> Any:
    return edit.call(
        fxp.requantize.default, acc, edit.add_tensor("b", torch.tensor([90], dtype=torch.int32)), 18, -128, 127, axis, torch.int8
    )


def convolution(channels: int, size: int, kernel: int, stride: int, groups: int) -> Layer:
    def body(edit: Any, x: Any) -> Any:
        weight = edit.add_tensor("weight", _integers(channels, channels // groups, kernel, kernel).to(torch.int8))
        window = [stride, stride], [kernel // 2] * 4, [1, 1], groups
        return _requantized(edit, edit.call(fxp.conv2d.default, x, weight, None, *window), 1)

    name = f"{'depthwise' if groups > 1 else 'conv2d'} {size}x{size}x{channels} {kernel}x{kernel}/{stride}"
    return name, [(channels, size, size)], body


def linear(rows: int, inputs: int, outputs: int) -> Layer:
    def body(edit: Any, x: Any) -> Any:
        return _requantized(
            edit, edit.call(fxp.linear.default, x, edit.add_tensor("w", _integers(outputs, inputs).to(torch.int8)), None), -1
        )

    return f"linear {rows}x{inputs}->{outputs}", [(rows, inputs)], body


def matmul(heads: int, rows: int, depth: int, columns: int) -> Layer:
    def body(edit: Any, x: Any, y: Any) -> Any:
        return _requantized(edit, edit.call(fxp.matmul.default, x, y), -1)

    return f"matmul {heads} heads {rows}x{depth}x{columns}", [(heads, rows, depth), (heads, depth, columns)], body


def attention(heads: int, length: int, width: int) -> Layer:
    def body(edit: Any, q: Any, k: Any, v: Any) -> Any:
        table = edit.add_tensor("table", torch.exp(-0.05 * torch.arange(256)).mul(255).round().to(torch.uint8))
        return edit.call(fxp.attention.default, q, k, v, None, None, table, 80, 15, 128, 15, -128, 127, False, torch.int8, "zero")

    return f"attention {heads} heads {length}x{width}", [(heads, length, width)] * 3, body


def lookup(rows: int, channels: int) -> Layer:
    def body(edit: Any, x: Any) -> Any:
        return edit.call(fxp.lut.default, x, edit.add_tensor("table", _integers(1, 256).to(torch.int8)), -1)

    return f"table {rows}x{channels}", [(rows, channels)], body


LAYERS = (
    convolution(64, 56, 3, 1, 1),
    convolution(32, 112, 3, 1, 32),
    convolution(144, 56, 3, 2, 144),
    convolution(576, 14, 3, 1, 576),
    convolution(960, 7, 3, 1, 960),
    linear(128, 768, 768),
    matmul(12, 128, 64, 128),
    matmul(12, 128, 128, 64),
    attention(12, 128, 64),
    attention(12, 512, 64),
    lookup(128, 3072),
)


class _Copies(nn.Module):
    def forward(self, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x.clone() for x in xs)


def program_of(layer: Layer) -> fx.Program:
    _, shapes, body = layer
    program = fx.capture(_Copies(), tuple(torch.zeros(1, *shape, dtype=torch.int8) for shape in shapes))
    edit = program.edit()
    with edit.graph.inserting_before(edit.graph.output_node()):
        result = body(edit, *map(edit.here, program.placeholders()))
    edit.graph.output_node().args = ((result,),)
    return edit.finish(stage="integer")


def row(layer: Layer, target: Target, threads: int, count: int) -> tuple[str, ...]:
    """The kernel that the target plans and loops, which a target of the baseline's features plans in the same storage."""
    program, baseline = program_of(layer), replace(target, features=target.features[:1])
    own, loops = plan(program, target), plan(program, baseline)
    found = [both for _, both in matched(own, loops).values() if "loops" in str(both[1]) or str(both[1]) == "lut"]
    if len(found) != 1:
        return layer[0], "as in loops", "", "", ""
    (both,) = found
    times = rounds(both, target, {}, threads, count)
    seconds = np.array([times[part.signature] for part in both]).reshape(2, min(TURNS, count), -1) * 1e-6
    table = Table(("kernel", "loops"), seconds, (None, None))
    return layer[0], f"`{both[0]}`", *(f"{each.p50_ms * 1e3:.1f} us" for each in table.rows), str(table.ratio(0, 1))


def main() -> None:
    cards = {card.name: card for card in TVM.targets() if card.runs_here and set(card.features) & set(LEVELS)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=cards, default="tvm:x86-64-avx2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60, help=f"a multiple of {TURNS}, in as many turns; or fewer")
    options = parser.parse_args()
    if options.rounds > TURNS and options.rounds % TURNS:
        parser.error(f"--rounds {options.rounds} is no multiple of {TURNS}")
    rows = [row(layer, cards[options.target], options.threads, options.rounds) for layer in LAYERS]
    print(f"{options.target}, {options.threads} threads\n\n{readme.markdown(HEAD, rows)}")


if __name__ == "__main__":
    main()
