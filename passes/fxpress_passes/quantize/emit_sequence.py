"""recognised node of a transformer, integer operands ==> integer operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from . import attention, norm, rotary
from .recognized import Recognized
from .scales import Grid
from .stored import Value, storage

if TYPE_CHECKING:
    from .emit import Emitter

_aten, _fxp = torch.ops.aten, torch.ops.fxp


def _matmul(emitter: Emitter, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
    acc = emitter.edit.call(_fxp.matmul.default, inputs[0].node, inputs[1].node, like=node, name=f"{node.name}_acc")
    real = torch.tensor([inputs[0].grid.scale * inputs[1].grid.scale / grid.scale], dtype=torch.float64)
    return emitter.requantize(node, acc, real, grid, what.bounds, -1)


def _softmax(emitter: Emitter, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
    x = _signed(emitter, node, inputs[0])
    table = emitter.edit.add_tensor(f"{node.name}.exponentials", attention.exponentials(x.grid.scale, 1 << 14).to(torch.int32))
    return emitter.edit.call(_fxp.softmax.default, x.node, table, 8, like=node, name=f"{node.name}_out")


def _attention(emitter: Emitter, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
    return attention.emit(emitter.edit, node, what, [(value.node, value.grid) for value in inputs], grid, storage(grid))


def _normalize(emitter: Emitter, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
    """Gain and shift of a unit that several grids share."""
    x = inputs[0]
    if (node, x.node) not in emitter.units:
        emitter.units[node, x.node] = norm.emit(emitter.edit, node, what, x.node, x.grid.scale)
    return norm.emit_affine(emitter.edit, node, what, emitter.units[node, x.node], grid, storage(grid))


def _rotary(emitter: Emitter, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
    x = _signed(emitter, node, inputs[0])
    return rotary.emit(emitter.edit, node, what, x.node, x.grid.scale, grid, storage(grid))


def _signed(emitter: Emitter, node: fx.Node, value: Value) -> Value:
    """What an operator reads that takes no u8: s8 of twice the scale."""
    if storage(value.grid) != torch.uint8:
        return value
    return emitter.narrow(value, node, Grid(2 * value.grid.scale, -128, 127))


def _embedding(emitter: Emitter, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
    assert what.weight is not None
    table = _stored(emitter, f"{what.weight.target}.{grid.bits}", emitter.edit.tensor(what.weight), grid)
    ids = arguments(node)["indices"]
    return emitter.edit.call(_aten.embedding.default, table, ids, like=node, name=f"{node.name}_out")


def _constant(emitter: Emitter, node: fx.Node, what: Recognized, inputs: list[Value], grid: Grid) -> fx.Node:
    return _stored(emitter, f"{node.target}.{grid.bits}", emitter.edit.tensor(node), grid)


def _stored(emitter: Emitter, name: str, values: Tensor, grid: Grid) -> fx.Node:
    """Real numbers on a grid."""
    return emitter.edit.add_tensor(name, _fxp.quantize(values.detach(), grid.scale, grid.qmin, grid.qmax, storage(grid)))


SEQUENCES: dict[str, Callable[[Emitter, fx.Node, Recognized, list[Value], Grid], fx.Node]] = {
    "matmul": _matmul,
    "softmax": _softmax,
    "attention": _attention,
    "normalize": _normalize,
    "rotary": _rotary,
    "embedding": _embedding,
    "constant": _constant,
}
"""The rule of each kind that transformers add."""
