"""Chains of moves over a constant: what is one, where it begins, what its rows are, and the same moves of another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import captured
from fxpress_passes.quantize.moved import is_constant, moved, rows_of, source_of
from sketch import Sketch
from torch import Tensor, fx, nn

_aten = torch.ops.aten
SLICE, UNSQUEEZE, EXPAND = _aten.slice.Tensor, _aten.unsqueeze.default, _aten.expand.default
VIEW, RESHAPE, FLATTEN = _aten.view.default, _aten.reshape.default, _aten.flatten.using_ints

CHAINS: dict[str, tuple[Callable[[Sketch, fx.Node], fx.Node], str | None]] = {
    "itself": (lambda s, c: c, "whole"),
    "windows for all images": (
        lambda s, c: s.call(RESHAPE, s.call(EXPAND, s.call(UNSQUEEZE, s.call(UNSQUEEZE, c, 0), 2), [5, -1, 1, -1]), [-1, 1, 6]),
        "whole",
    ),
    "windows, flattened": (lambda s, c: s.call(FLATTEN, s.call(EXPAND, s.call(UNSQUEEZE, c, 0), [5, -1, -1]), 0, 1), "whole"),
    "rows flattened": (lambda s, c: s.call(FLATTEN, c), None),
    "some rows": (lambda s, c: s.call(SLICE, c, 0, 2, 4), "whole"),
    "their beginnings": (lambda s, c: s.call(UNSQUEEZE, s.call(SLICE, c, -1, 0, 3), 0), "cut"),
    "their ends": (lambda s, c: s.call(SLICE, c, 1, 3, 6), None),
    "every second": (lambda s, c: s.call(SLICE, c, 1, 0, 6, 2), None),
    "a new dimension": (lambda s, c: s.call(UNSQUEEZE, c, -1), None),
    "repeated values": (lambda s, c: s.call(EXPAND, s.call(UNSQUEEZE, c, -1), [4, 6, 6]), None),
    "other rows": (lambda s, c: s.call(VIEW, c, [6, 4]), None),
    "rows joined": (lambda s, c: s.call(RESHAPE, s.call(SLICE, c, 1, 0, 3), [2, 6]), None),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name: str) -> None:
    build, rows = CHAINS[name]
    sketch = Sketch()
    constant = sketch.tensor(4, 6)
    chain = build(sketch, constant)
    assert is_constant(chain)
    assert source_of(chain) is constant
    assert rows_of(chain) == rows


def test_a_single_number_has_no_rows() -> None:
    sketch = Sketch()
    assert rows_of(sketch.call(UNSQUEEZE, sketch.tensor(), 0)) is None


def test_what_is_computed_is_no_constant() -> None:
    sketch = Sketch()
    assert not is_constant(sketch.x)
    assert not is_constant(sketch.call(VIEW, sketch.x, [2, -1]))
    assert not is_constant(sketch.call(_aten.neg.default, sketch.tensor(4)))
    assert not is_constant(2.0)


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        spread: Tensor = self.table[:2].unsqueeze(0).expand(x.shape[0], -1, -1).reshape(-1, 4)
        return x.flatten(0, 1) + spread


def test_another_constant_is_moved_alike() -> None:
    edit = captured(Windows(), 2, 2, 4).edit()
    (add,) = edit.graph.find_nodes(op="call_function", target=_aten.add.Tensor)
    with edit.graph.inserting_before(add):
        other = edit.add_tensor("other", torch.arange(12.0).reshape(3, 4) * 10)
        add.args = (add.args[0], moved(edit, add.args[1], other))  # type: ignore[arg-type]
    x = torch.zeros(5, 2, 4)
    assert torch.equal(edit.finish().run(x)[0], torch.arange(8.0).reshape(2, 4).repeat(5, 1) * 10)
