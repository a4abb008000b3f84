"""Where a product and a sum can go: the layer whose outputs they alone read, the input channels of all layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from float_programs import captured
from fxpress_passes.fuse.affine import Chain, chain
from fxpress_passes.fuse.neighbours import Place, after, before, is_near
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.linear, self.wide, self.second, self.conv = nn.Linear(6, 6), nn.Linear(6, 18), nn.Linear(6, 4), nn.Conv2d(12, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


Body = Callable[[Any, Tensor], Tensor]


def chains(bodies: Sequence[Body], *shape: int) -> tuple[Any, list[Chain]]:
    """The one chain of each body, in their order."""
    edit = captured(Net(lambda m, x: tuple(body(m, x) for body in bodies)), *shape).edit()
    found = [made for node in edit.graph.nodes if (made := chain(edit, node)) is not None]
    assert len(found) == len(bodies)
    return edit, found


def place(found: Place | list[Place] | str) -> Any:
    if isinstance(found, Place):
        return found.layer.name, found.start, found.end
    return found if isinstance(found, str) else [place(each) for each in found]


BEFORE: list[tuple[Body, Any]] = [
    (lambda m, x: m.linear(x) * 2, ("linear", 0, None)),
    (lambda m, x: m.linear(x).view(-1, 3, 2, 3).transpose(1, 2) * 2, ("linear_1", 0, None)),
    (lambda m, x: (y := m.wide(x))[..., 6:12] * 2 @ y[..., :6].mT, ("linear_2", 6, 12)),
    (lambda m, x: (y := m.wide(x))[..., 6:-2] * 2 @ y[..., 1:11].mT, "reads outputs of linear_3 that it scales"),
    (lambda m, x: (y := m.wide(x).chunk(3, -1))[2] * 2 @ y[1].mT, ("linear_4", 12, 18)),
    (lambda m, x: (y := m.linear(x)) * 2 @ y.mT, "linear_5 is also read by"),
    (lambda m, x: x.relu() * 2, "it follows relu, which is no layer"),
    (lambda m, x: m.wide(x)[:, :2] * 2, "which is no slice of a layer's outputs"),
]


def test_before() -> None:
    edit, found = chains([body for body, _ in BEFORE], 2, 3, 6)
    assert [is_near(each.source, each.tip) for each in found] == [True, False, True, True, True, True, False, False]
    for each, (_, expected) in zip(found, BEFORE, strict=True):
        result = place(before(edit, each.source, each.nodes[0], each.affine))
        assert result == expected or (isinstance(expected, str) and expected in result)


AFTER: list[tuple[Body, Any]] = [
    (lambda m, x: m.second(x.relu() * 2), [("linear", 0, None)]),
    (lambda m, x: m.linear(y := x.relu() * 2)[..., :4] @ m.second(y).mT, [("linear_1", 0, None), ("linear_2", 0, None)]),
    (lambda m, x: (x.relu() * 2).tanh(), "it is read by tanh, which is no layer"),
    (lambda m, x: x.relu() * 2, "it is read by an output, which is no layer"),
]
JOINED: list[tuple[Body, Any]] = [
    (lambda m, x: m.conv(torch.cat([x, x.relu() * 2], 1)), [("conv2d", 6, 12)]),
    (lambda m, x: m.conv(torch.cat([torch.cat([x[:, :2], x[:, :4].relu() * 2], 1), x], 1)), [("conv2d_1", 2, 6)]),
    (lambda m, x: m.conv(torch.cat([x, x.relu() * 2], 2).reshape(-1, 12, 5, 5)), "which is no layer"),
]


@pytest.mark.parametrize(("cases", "shape"), [(AFTER, (2, 3, 6)), (JOINED, (2, 6, 5, 5))], ids=["layers", "concatenations"])
def test_after(cases: Sequence[tuple[Body, Any]], shape: tuple[int, ...]) -> None:
    edit, found = chains([body for body, _ in cases], *shape)
    for each, (_, expected) in zip(found, cases, strict=True):
        result = place(after(edit, each.tip, each.affine))
        assert result == expected or (isinstance(expected, str) and expected in result)
        assert is_near(each.source, each.tip) == (cases is AFTER and isinstance(expected, list))
