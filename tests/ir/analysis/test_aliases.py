"""What shares memory, by schema and by the exceptions that schemas do not admit, against the addresses that torch gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_ir import capture
from fxpress_ir.analysis.aliases import base, shares_memory
from support import aten
from torch import Tensor, fx, nn
from torch.nn import functional


class Does(nn.Module):
    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.view(-1),
    lambda x: x.flatten(1),
    lambda x: x.transpose(0, 1),
    lambda x: x[:, 0],
    lambda x: x.unsqueeze(0).squeeze(0),
    lambda x: x.chunk(2)[1],
    lambda x: x.unbind(0)[1],
    lambda x: x.expand(5, 4, 3),
    lambda x: x.detach(),
    lambda x: functional.dropout(x, 0.5, False),
    lambda x: x.type_as(x),
)
VALUES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x + 0,
    lambda x: x.clone(),
    lambda x: torch.relu(x),
    lambda x: torch.cat([x, x]),
    lambda x: x.max(1)[0],
    lambda x: functional.pad(x, (1, 1)),
)


@pytest.mark.parametrize(("body", "shared"), [*((body, True) for body in VIEWS), *((body, False) for body in VALUES)])
def test_what_is_called_a_view_is_one(body: Callable[[Tensor], Tensor], shared: bool) -> None:
    x = torch.zeros(4, 3)
    found = body(x)
    assert (found.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) is shared
    program = capture(Does(body).eval(), (x,))
    last = program.outputs()[0]
    assert shares_memory(last) is shared
    assert base(last) is (program.placeholders()[0] if shared else last)


def test_an_operator_that_writes_makes_a_value_of_its_own_once_it_is_functional() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert not shares_memory(x)
    assert not shares_memory(graph.call_function(aten.relu.default, (x,)))
    assert base(graph.call_function(aten.view.default, (graph.call_function(aten.view.default, (x, [-1])), [2]))) is x
