"""Integer programs of several inputs, dimensions among them symbolic, and the operands of attention that the tests give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Edit, Program, capture
from support import exponentials, fxp
from torch import Tensor, fx, nn

Shape = Sequence[int | str]
Input = tuple[Shape, torch.dtype]


class _Copies(nn.Module):
    def forward(self, *xs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.clone() for x in xs)


def several(inputs: Sequence[Input], body: Callable[..., fx.Node | Sequence[fx.Node]], maxima: Mapping[str, int] | None = None) -> Program:
    """A program whose inputs have these shapes and types and whose outputs are what ``body(edit, *inputs)`` returns.

    Args:
        inputs: a size that is a text is a dynamic dimension of that name.
        maxima: of the dynamic dimensions that have one.
    """
    names = sorted({size for shape, _ in inputs for size in shape if isinstance(size, str)})
    dims = {name: torch.export.Dim(name, max=(maxima or {}).get(name)) for name in names}
    example = {name: 2 + number for number, name in enumerate(names)}
    values = tuple(
        torch.zeros([example[size] if isinstance(size, str) else size for size in shape], dtype=dtype) for shape, dtype in inputs
    )
    dynamic = tuple({d: dims[size] for d, size in enumerate(shape) if isinstance(size, str)} for shape, _ in inputs)
    program = capture(_Copies(), values, dynamic_shapes={"xs": dynamic})
    edit = program.edit()
    with edit.graph.inserting_before(edit.graph.output_node()):
        result = body(edit, *map(edit.here, program.placeholders()))
    edit.graph.output_node().args = ((result,) if isinstance(result, fx.Node) else tuple(result),)
    return edit.finish(stage="integer")


@dataclass(frozen=True)
class Attention:
    """The numbers of an attention."""

    b: int = 80
    c: int = 15
    ob: int = 128
    oc: int = 15
    qmin: int = -128
    qmax: int = 127
    causal: bool = False
    dtype: torch.dtype = torch.int8
    unseen: str = "zero"

    def program(self, operands: Mapping[str, Input], maxima: Mapping[str, int] | None = None, table: Tensor | None = None) -> Program:
        """One attention over inputs: ``q``, ``k``, ``v`` and perhaps ``mask`` and ``bias``, each with shape and type."""
        return several(list(operands.values()), lambda edit, *xs: self.call(edit, dict(zip(operands, xs, strict=True)), table), maxima)

    def call(self, edit: Edit, operands: Mapping[str, fx.Node], table: Tensor | None = None) -> fx.Node:
        """The node, of the same operands."""
        exponential = edit.add_tensor("table", exponentials(255).to(torch.uint8) if table is None else table)
        given = [operands.get(name) for name in ("q", "k", "v", "mask", "bias")]
        return edit.call(fxp.attention.default, *given, exponential, *self.numbers, self.unseen)

    @property
    def numbers(self) -> tuple[Any, ...]:
        """b to dtype, in the schema's order."""
        return self.b, self.c, self.ob, self.oc, self.qmin, self.qmax, self.causal, self.dtype
