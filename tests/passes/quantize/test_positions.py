"""Positions that are counted off a mask become one integer operator, however they are written; others are refused by name."""

from __future__ import annotations

from collections.abc import Callable

import fxpress as fxpress_
import pytest
import torch
from fxpress_ir import Program, capture
from fxpress_ir.errors import RefusalError
from fxpress_ir.ops import arguments
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn

_fxp = torch.ops.fxp
Body = Callable[[Tensor], Tensor]
NONE = -(1 << 30)


class Embedded(nn.Module):
    """Rows of a table at the positions that ``body(mask)`` counts, through a layer."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body, self.table, self.layer = body, nn.Embedding(70, 8), nn.Linear(8, 4)

    def forward(self, mask: Tensor) -> Tensor:
        result: Tensor = self.layer(self.table(self.body(mask)))
        return result


def _masks(batch: int, length: int) -> Tensor:
    """All, nothing, the last ones, the first ones."""
    first = torch.tensor([0, length, length // 2, 0])[:batch, None]
    last = torch.tensor([length, length, length, length // 2])[:batch, None]
    return ((torch.arange(length) >= first) & (torch.arange(length) < last)).long()


def _quantized(body: Body, dtype: torch.dtype = torch.int64) -> tuple[Program, Program]:
    torch.manual_seed(0)
    dynamic = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", min=2, max=60)},)
    example = _masks(4, 12).to(dtype)
    program = capture(Embedded(body).eval(), (example,), dynamic_shapes=dynamic)
    return program, Pipeline.parse("quantize-dyadic{integer_only=true}").run(program, calibration=[(example,)]).program


def _of_32_bits(mask: Tensor) -> Tensor:
    return (mask.cumsum(1).type_as(mask) * mask).long() + 1


FORMS: dict[str, tuple[Body, tuple[int, int, int | None]]] = {
    "filled": (lambda m: (m.cumsum(-1) - 1).masked_fill(m == 0, 1), (-1, NONE, 1)),
    "times the mask": (lambda m: m.cumsum(1) * m + 1, (1, NONE, 1)),
    "at least 0": (lambda m: (m.cumsum(-1) - 1).clamp(min=0), (-1, 0, None)),
    "at least 0, then moved": (lambda m: (m.cumsum(-1) - 1).clamp_min(0) + 2, (1, 2, None)),
    "of booleans and 32 bits": (lambda m: _of_32_bits((m != 0).int()), (1, NONE, 1)),
}


@pytest.mark.parametrize("name", FORMS)
def test_positions_are_counted_in_integers(name: str) -> None:
    body, wanted = FORMS[name]
    program, integer = _quantized(body)
    assert integer.stage == "integer"
    (call,) = integer.graph.find_nodes(op="call_function", target=_fxp.positions.default)
    assert tuple(arguments(call)[key] for key in ("offset", "least", "hidden")) == wanted
    for batch, length in ((1, 2), (4, 12), (3, 40)):
        mask = _masks(batch, length)
        places = fxpress_.capture(_Only(body), (mask,)).run(mask)[0]
        assert torch.equal(_fxp.positions(mask != 0, *wanted), places)
        difference = (integer.run(mask)[0] - program.run(mask)[0]).abs().max()
        assert difference <= 0.05 * program.run(mask)[0].abs().max()


class _Only(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, mask: Tensor) -> Tensor:
        return self.body(mask)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        (lambda m: m.cumsum(-1).clamp(0, 9), "clamp"),
        (lambda m: m.cumsum(-1) * 2, "mul"),
        (lambda m: m.cumsum(0), "cumsum"),
        (lambda m: (m.cumsum(-1) - 1).masked_fill(m.flip(1) == 0, 1).clamp(min=0), "flip"),
    ],
)
def test_other_arithmetic_is_refused_by_name(body: Body, operator: str) -> None:
    message = f"to-integer, node {operator}: aten.{operator}.* has no integer form; rewrite it, or allow float islands"
    with pytest.raises(RefusalError, match=message):
        _quantized(body)
