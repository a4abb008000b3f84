"""Random convolutional networks: whatever leaves, masked == sliced."""

from __future__ import annotations

import torch
from coupled import captured, check_sliced
from fxpress_ir.analysis.coupling import coupled_groups
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional


class Random(nn.Module):
    """Layers drawn one after the other; each reads an earlier value, some are added, joined, cut or gated."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        counts = [3]
        self.layers = nn.ModuleList()
        for kind, source, width in steps:
            channels = counts[source % len(counts)]
            layer, made = _layer(kind, channels, width, counts)
            self.layers.append(layer)
            counts.append(made)
        self.head = nn.Linear(sum(counts[1:]), 2)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for (kind, source, _), layer in zip(self.steps, self.layers, strict=True):
            y = values[source % len(values)]
            other = next((value for value in reversed(values) if value.shape == y.shape), y)
            if kind == "add":
                y = y + torch.relu(other)
            elif kind == "join":
                y = torch.cat([y, values[-1]], 1)
            elif kind == "halve":
                y = y.chunk(2, 1)[0] if y.shape[1] > 1 else y
            elif kind == "gate":
                y = y * torch.sigmoid(layer(functional.adaptive_avg_pool2d(y, 1)))
            elif kind == "norm":
                y = functional.gelu(layer(y))
            else:
                y = functional.hardswish(layer(y))
            values.append(y)
        made: Tensor = self.head(torch.cat([value.mean((2, 3)) for value in values[1:]], 1))
        return made


def _layer(kind: str, channels: int, width: int, counts: list[int]) -> tuple[nn.Module, int]:
    """A step's layer, and how many channels its value has."""
    if kind == "conv":
        return nn.Conv2d(channels, width, 3, padding=1), width
    if kind == "depthwise":
        return nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels), 2 * channels
    if kind == "grouped":
        return nn.Conv2d(channels, 2 * width, 1, groups=2 if channels % 2 == 0 else 1), 2 * width
    if kind == "gate":
        return nn.Conv2d(channels, channels, 1), channels
    if kind == "norm":
        return nn.BatchNorm2d(channels), channels
    made = {"join": channels + counts[-1], "halve": -(-channels // 2)}
    return nn.Identity(), made.get(kind, channels)


_STEP = st.tuples(
    st.sampled_from(["conv", "conv", "depthwise", "grouped", "add", "join", "halve", "gate", "norm"]), st.integers(0, 9), st.integers(2, 5)
)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.lists(_STEP, min_size=2, max_size=6), st.integers(0, 99))
def test_random_networks_are_sliced_as_masked(steps: list[tuple[str, int, int]], seed: int) -> None:
    images = [torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed + batch)) for batch in (2, 3)]
    program = captured(Random([("conv", 0, 6), *steps]), images[0], seed=seed)
    if coupled_groups(program).prunable:
        check_sliced(program, [(image,) for image in images], seed=seed)
