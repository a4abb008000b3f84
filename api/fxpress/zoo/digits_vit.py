"""[n, 1, 8, 8] grey images of handwritten digits ==> [n, 10] scores, by a small vision transformer."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from .digits_cnn import digits
from .entry import Entry

NAME = "digits-vit"
WEIGHTS = Path(__file__).with_name("digits_vit.safetensors")
_BATCHES, _BATCH = 8, 32


class Block(nn.Module):
    """Pre-norm encoder block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return result


class DigitsViT(nn.Module):
    """Patches of 2x2 pixels, a class token, learned positions, four blocks; the class token is read."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(x), -1, -1), y], 1) + self.positions
        scores: Tensor = self.head(self.norm(self.blocks(y))[:, 0])
        return scores


def load() -> Entry:
    """The trained network with its data."""
    model = DigitsViT().eval()
    model.load_state_dict(load_file(WEIGHTS))
    data = digits()
    images = data.train[0]
    return Entry(
        name=NAME,
        description="vision transformer of four blocks, 8x8 handwritten digits",
        model=model,
        inputs=(images[:1],),
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        calibration=[(batch,) for batch in torch.split(images, _BATCH)[:_BATCHES]],
        held_out=data.held_out,
    )
