"""Programs large enough for tiles: a block of a transformer, and a backend whose only target is the emulated one."""

from __future__ import annotations

import torch
from fxpress_backends.contract import Target
from fxpress_backends.tvm import TvmBackend, cpu
from fxpress_ir import Edit, Program
from support import aten, built, exponentials, fxp, requantize
from torch import fx
from tvm_cases import S8

EMULATED = cpu.emulated_amx(cpu.host_features())


class Emulated(TvmBackend):
    """As `TVM`; its target is in no table of the product."""

    def targets(self) -> tuple[Target, ...]:
        return (EMULATED,)


def transformer_block(rows: int = 19, width: int = 64, heads: int = 2) -> Program:
    """[batch, rows, width]: q, k and v side by side, attention, a projection added to the input, an MLP through a table."""
    generator = torch.Generator().manual_seed(rows)

    def linear(edit: Edit, x: fx.Node, inputs: int, outputs: int, name: str) -> fx.Node:
        weight = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
        bias = torch.randint(-5000, 5000, (outputs,), generator=generator, dtype=torch.int32)
        acc = edit.call(fxp.linear.default, x, edit.add_tensor(f"{name}.weight", weight), edit.add_tensor(f"{name}.bias", bias))
        b = torch.randint(50, 120, (outputs,), generator=generator, dtype=torch.int32)
        return requantize(edit, acc, b, 16, relu=False, axis=-1, name=name)

    def split(edit: Edit, x: fx.Node, part: int) -> fx.Node:
        own = edit.call(aten.slice.Tensor, x, 2, width * part, width * (part + 1))
        return edit.call(aten.transpose.int, edit.call(aten.view.default, own, [-1, rows, heads, width // heads]), 1, 2)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        stream = edit.call(fxp.quantize.default, x, 0.02, -128, 127, torch.int8)
        together = linear(edit, stream, width, 3 * width, "qkv")
        q, k, v = (split(edit, together, part) for part in range(3))
        table = edit.add_tensor("exponentials", exponentials(255).to(torch.uint8))
        attended = edit.call(fxp.attention.default, q, k, v, None, None, table, 80, 15, 160, 15, -128, 127, False, torch.int8)
        joined = edit.call(aten.reshape.default, edit.call(aten.transpose.int, attended, 1, 2), [-1, rows, width])
        stream = edit.call(fxp.add.default, linear(edit, joined, width, width, "out"), stream, 9001, 12001, 14, *S8)
        hidden = linear(edit, stream, width, 4 * width, "up")
        curve = torch.arange(-128, 128).clamp(min=-20).to(torch.int8)[None]
        activated = edit.call(fxp.lut.default, hidden, edit.add_tensor("curve", curve), -1)
        mixed = linear(edit, activated, 4 * width, width, "down")
        return edit.call(fxp.dequantize.default, edit.call(fxp.add.default, mixed, stream, 9001, 12001, 14, *S8), 0.5)

    return built((1, rows, width), body)
