"""Convolutions, their norms, residuals, concatenations, shuffles: which channels leave together."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from coupled import captured, check_sliced, table
from fxpress_ir.analysis.coupling import coupled_groups
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Layers by name and a function of them and the image."""

    def __init__(self, body: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def conv(inputs: int, outputs: int, kernel: int = 1, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def head(channels: int) -> nn.Linear:
    return nn.Linear(channels, 3)


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


CASES: dict[str, tuple[Net, dict[str, tuple[object, ...]]]] = {
    "a chain": (
        Net(lambda m, x: m.c(functional.relu(m.n(m.a(x)))), a=conv(3, 6, 3), n=nn.BatchNorm2d(6), c=conv(6, 4)),
        {"a": (6, "a.weight[0]", "a.bias[0]", "n.weight[0]", "n.bias[0]", "n.running_mean[0]", "n.running_var[0]", "c.weight[1]")},
    ),
    "a residual stream": (
        Net(lambda m, x: m.c((y := m.a(x)) + m.b(functional.gelu(m.d(y)))), a=conv(3, 6), b=conv(5, 6), c=conv(6, 4), d=conv(6, 5)),
        {
            "a": (6, "a.weight[0]", "a.bias[0]", "d.weight[1]", "b.weight[0]", "b.bias[0]", "c.weight[1]"),
            "d": (5, "d.weight[0]", "d.bias[0]", "b.weight[1]"),
        },
    ),
    "depthwise": (
        Net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 4), b=conv(4, 8, 3, groups=4), c=conv(8, 3)),
        {"a": (4, "a.weight[0]", "a.bias[0]", "b.weight[0] x2", "b.bias[0] x2", "c.weight[1] x2")},
    ),
    "grouped": (
        Net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 6), b=conv(6, 9, 3, groups=3), c=conv(9, 3)),
        {"a": (3, "a.weight[0] x2", "a.bias[0] x2", "b.weight[0] x3", "b.bias[0] x3", "c.weight[1] x3")},
    ),
    "transposed": (
        Net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 6), b=nn.ConvTranspose2d(6, 5, 2, stride=2), c=conv(5, 3)),
        {"a": (6, "a.weight[0]", "a.bias[0]", "b.weight[0]"), "b": (5, "b.weight[1]", "b.bias[0]", "c.weight[1]")},
    ),
    "transposed and grouped": (
        Net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 6), b=nn.ConvTranspose2d(6, 4, 2, groups=2), c=conv(4, 3)),
        {"a": (2, "a.weight[0] x3", "a.bias[0] x3", "b.weight[0] x3", "b.bias[0] x2", "c.weight[1] x2")},
    ),
    "concatenated": (
        Net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x), x], 1)), a=conv(3, 4), b=conv(3, 5), c=conv(12, 3)),
        {"a": (4, "a.weight[0]", "a.bias[0]", "c.weight[1]"), "b": (5, "b.weight[0]", "b.bias[0]", "c.weight[1]")},
    ),
    "split, chunked": (
        Net(lambda m, x: m.c((y := m.a(x)).split([2, 4], 1)[1]) + m.d(y.chunk(2, 1)[0]), a=conv(3, 6), c=conv(4, 3), d=conv(3, 3)),
        {
            "a": (2, "a.weight[0]", "a.bias[0]", "d.weight[1]"),
            "a#2": (3, "a.weight[0]", "a.bias[0]", "c.weight[1]"),
        },
    ),
    "flattened into a linear layer": (
        Net(lambda m, x: m.c(functional.max_pool2d(m.a(x), 4).flatten(1)), a=conv(3, 5), c=head(20)),
        {"a": (5, "a.weight[0]", "a.bias[0]", "c.weight[1] x4")},
    ),
    "squeeze and excitation": (
        Net(
            lambda m, x: mean(m.c((y := m.a(x)) * torch.sigmoid(m.e(functional.adaptive_avg_pool2d(y, 1))))),
            a=conv(3, 6),
            e=conv(6, 6),
            c=conv(6, 4),
        ),
        {"a": (6, "a.weight[0]", "a.bias[0]", "e.weight[0]", "e.weight[1]", "e.bias[0]", "c.weight[1]")},
    ),
    "shuffled by views": (
        Net(lambda m, x: m.c(m.a(x).view(-1, 2, 3, 8, 8).transpose(1, 2).reshape(-1, 6, 8, 8)), a=conv(3, 6), c=conv(6, 3)),
        {"a": (2, "a.weight[0] x3", "a.bias[0] x3", "c.weight[1] x3")},
    ),
    "shuffled by the operator": (
        Net(lambda m, x: m.c(functional.channel_shuffle(m.a(x), 2)), a=conv(3, 6), c=conv(6, 3)),
        {"a": (3, "a.weight[0] x2", "a.bias[0] x2", "c.weight[1] x2")},
    ),
    "pixels shuffled": (
        Net(lambda m, x: m.c(functional.pixel_shuffle(m.a(x), 2)), a=conv(3, 12), c=conv(3, 3)),
        {"a": (3, "a.weight[0] x4", "a.bias[0] x4", "c.weight[1]")},
    ),
    "group norm": (
        Net(lambda m, x: m.c(m.n(m.a(x))), a=conv(3, 6), n=nn.GroupNorm(3, 6), c=conv(6, 3)),
        {"a": (3, "a.weight[0] x2", "a.bias[0] x2", "n.weight[0] x2", "n.bias[0] x2", "c.weight[1] x2")},
    ),
    "channels padded": (
        Net(lambda m, x: m.c(functional.pad(m.a(x), (0, 0, 0, 0, 1, 1)) + m.b(x)), a=conv(3, 4), b=conv(3, 6), c=conv(6, 3)),
        {
            "a": (4, "a.weight[0]", "a.bias[0]", "b.weight[0]", "b.bias[0]", "c.weight[1]"),
            "b": (2, "b.weight[0]", "b.bias[0]", "c.weight[1]"),
        },
    ),
    "slopes and interpolation": (
        Net(lambda m, x: m.c(functional.interpolate(m.p(m.a(x)), scale_factor=2.0)), a=conv(3, 6), p=nn.PReLU(6), c=conv(6, 3)),
        {"a": (6, "a.weight[0]", "a.bias[0]", "p.weight[0]", "c.weight[1]")},
    ),
    "a gate of halves": (
        Net(lambda m, x: m.c(functional.glu(m.a(x), 1)), a=conv(3, 6), c=conv(3, 3)),
        {"a": (3, "a.weight[0] x2", "a.bias[0] x2", "c.weight[1]")},
    ),
    "repeated": (
        Net(lambda m, x: m.c(m.a(x).repeat(1, 2, 1, 1).repeat_interleave(2, 1)), a=conv(3, 3), c=conv(12, 3)),
        {"a": (3, "a.weight[0]", "a.bias[0]", "c.weight[1] x4")},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_leave_together(name: str) -> None:
    net, expected = CASES[name]
    images = [torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch)) for batch in (1, 3)]
    program = captured(net, images[0])
    groups = coupled_groups(program)
    assert table(groups) == {group: (size, *sorted(map(str, sites))) for group, (size, *sites) in expected.items()}
    assert all(group.exact for group in groups.prunable)
    check_sliced(program, [(image,) for image in images])


REFUSED: dict[str, tuple[Net, str, str]] = {
    "the output": (Net(lambda m, x: m.a(x), a=conv(3, 6)), "a", "output 0 carries it"),
    "an operator without a rule": (
        Net(lambda m, x: m.c(torch.sort(m.a(x), 1)[0]), a=conv(3, 6), c=conv(6, 3)),
        "a",
        "unprunable: sort at sort",
    ),
    "an entry by name": (Net(lambda m, x: m.a(x)[:, 1], a=conv(3, 6)), "a", "an entry is named by select at select"),
    "a stream of the input": (Net(lambda m, x: m.c(m.a(x) + x), a=conv(3, 3), c=conv(3, 2)), "a", "input 'x' carries it"),
    "order": (Net(lambda m, x: m.c(m.a(x).flip(1)), a=conv(3, 6), c=conv(6, 3)), "a", "its entries change places by flip at flip"),
    "rows of a product of images": (
        Net(lambda m, x: mean(m.a(x)[:, :, :3].transpose(1, 2) + x[:, :, :, :1]), a=conv(3, 8)),
        "a",
        "input 'x' carries it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_leave_says_why(name: str) -> None:
    net, group, reason = REFUSED[name]
    groups = coupled_groups(captured(net, torch.randn(2, 3, 8, 8)))
    assert not groups[group].prunable
    assert groups[group].unprunable == reason


def test_statistics_over_all_channels_are_no_zeros() -> None:
    net = Net(lambda m, x: m.c(m.n(m.a(x))), a=conv(3, 6), n=nn.GroupNorm(1, 6), c=conv(6, 3))
    group = coupled_groups(captured(net, torch.randn(2, 3, 8, 8)))["a"]
    assert group.prunable
    assert not group.exact
    assert group.inexact == "its entries are counted by group_norm at group_norm"


@pytest.mark.parametrize(
    ("body", "exact"),
    [
        (lambda m, x: m.a(x).sum(1), True),
        (lambda m, x: functional.relu(m.a(x)).square().sum(1), True),
        (lambda m, x: m.a(x).norm(dim=1), True),
        (lambda m, x: torch.sigmoid(m.a(x)).sum(1), False),
        (lambda m, x: m.a(x).mean(1), False),
        (lambda m, x: m.a(x).amax(1), False),
        (lambda m, x: m.c(m.a(x).softmax(1)), False),
        (lambda m, x: (m.a(x) + 1).sum(1), False),
        (lambda m, x: (m.a(x) * torch.sigmoid(m.a(x))).sum(1), True),
        (lambda m, x: (m.a(x) / (m.a(x).abs() + 1)).sum(1), True),
        (lambda m, x: (m.a(x) / m.a(x)).sum(1), False),
        (lambda m, x: m.c(m.a(x) / m.d(x)), False),
        (lambda m, x: m.c(m.a(x).abs().log()), False),
        (lambda m, x: m.c(m.a(x).masked_fill(x[:, :1] > 0, -math.inf).exp()), True),
        (lambda m, x: m.a(x).clamp(-1, 1).sum(1), True),
        (lambda m, x: m.a(x).clamp(1, 2).sum(1), False),
    ],
)
def test_zeros_are_the_same_where_they_add_nothing(body: Callable[..., Tensor], exact: bool) -> None:
    program = captured(Net(body, a=conv(3, 6), c=conv(6, 3), d=conv(3, 6)), torch.randn(2, 3, 8, 8))
    assert coupled_groups(program)["a"].exact is exact
    if exact:
        check_sliced(program, [(torch.randn(2, 3, 8, 8),)])
