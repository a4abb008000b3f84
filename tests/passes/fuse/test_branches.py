"""Which layers can be joined: one input, one geometry, constants of their own; their rows lie one after another."""

from __future__ import annotations

import torch
from float_programs import captured, refusals
from fxpress_ir import Program
from fxpress_passes import Context
from fxpress_passes.fuse.branches import channels_axis, joinable, joined, kind, rows, siblings, take_apart
from torch import Tensor, nn

_aten = torch.ops.aten
LAYERS = (_aten.linear.default, _aten.conv2d.default)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 5, bias=False), nn.Linear(4, 2)
        self.d, self.e = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.a(x)
        return y, self.b(x), self.d(y) + self.e(y), self.c(x.relu())


def program() -> Program:
    return captured(Net(), 2, 6, 4)


def test_siblings_read_one_value() -> None:
    found = siblings(program().graph, LAYERS)
    assert [[node.name for node in layers] for layers in found] == [["linear", "linear_1"], ["linear_2", "linear_3"]]
    assert kind(found[0]) == "aten.linear.default: [3, 4] + [5, 4]"


def test_strides_and_kernels_keep_convolutions_apart() -> None:
    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 4, size, step) for size, step in ((3, 1), (3, 2), (1, 1), (3, 1)))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(layer(x) for layer in self.layers)

    (found,) = siblings(captured(Convolutions(), 2, 3, 8, 8).graph, LAYERS)
    assert [node.name for node in found] == ["conv2d", "conv2d_3"]
    assert channels_axis(found[0]) == 1


def test_rows_follow_each_other_and_a_missing_bias_is_zeros() -> None:
    before = program()
    edit = before.edit()
    layers = [edit.here(node) for node in siblings(before.graph, LAYERS)[0]]
    assert list(rows(layers)) == [(0, 3), (3, 8)]
    take_apart(edit, joined(edit, layers), layers, layers, channels_axis(layers[0]))
    after = edit.finish()
    assert torch.equal(after.tensors["a.weight.joined"], torch.cat([before.tensors["a.weight"], before.tensors["b.weight"]]))
    assert torch.equal(after.tensors["linear.joined.bias"], torch.cat([before.tensors["a.bias"], torch.zeros(5)]))
    x = torch.randn(3, 6, 4)
    for found, expected in zip(after.run(x), before.run(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_weight_that_two_layers_share_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.layer(x).relu()

    context = Context()
    (found,) = siblings(captured(Shared(), 2, 4).graph, LAYERS)
    assert joinable(found, context) == []
    assert [refusal.split(": ")[0] for refusal in refusals(context)] == ["linear", "linear_1"]
