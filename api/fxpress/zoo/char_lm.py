"""[n, seq] bytes of text ==> [n, seq, 256] scores of the next byte, by a small decoder of Llama's kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry

NAME = "char-lm"
WEIGHTS = Path(__file__).with_name("char_lm.safetensors")
VOCABULARY, LENGTH = 256, 128
_BATCHES, _BATCH = 8, 16


class Attention(nn.Module):
    """Causal, rotary, with two heads of queries to each of keys and values."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key, self.value = (nn.Linear(width, groups * self.size, bias=False) for _ in range(2))

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = turned(self.query(x).view(batch, length, self.heads, self.size).transpose(1, 2), cosine, sine)
        k = turned(self.key(x).view(batch, length, self.groups, self.size).transpose(1, 2), cosine, sine)
        v = self.value(x).view(batch, length, self.groups, self.size).transpose(1, 2)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        result: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return result


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021), halves paired."""
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine


class Block(nn.Module):
    """x + attention(norm(x)), then x + down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, heads, groups)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cosine, sine)
        y = self.norm2(x)
        result: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return result


class CharLM(nn.Module):
    """Bytes, tied embeddings, up to 128 positions."""

    def __init__(self, width: int = 128, heads: int = 4, groups: int = 2, hidden: int = 352, depth: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads, groups, hidden) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        size = width // heads
        rates = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(LENGTH), rates).repeat(1, 2)
        self.cosine: Tensor
        self.sine: Tensor
        self.register_buffer("cosine", angles.cos()[None, None], persistent=False)
        self.register_buffer("sine", angles.sin()[None, None], persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        length = ids.shape[1]
        for block in self.blocks:
            x = block(x, self.cosine[:, :, :length], self.sine[:, :, :length])
        return functional.linear(self.norm(x), self.embedding.weight)


@dataclass(frozen=True)
class Text:
    """Bytes of text, int64 [n] each; the topics of one are not among those of the other."""

    train: Tensor
    held_out: Tensor


def text() -> Text:
    """The topics of Python's own help: every eighth, in alphabetical order, is held out."""
    from pydoc_data.topics import topics

    parts: tuple[list[str], list[str]] = ([], [])
    for number, name in enumerate(sorted(topics)):
        parts[number % 8 == 7].append(topics[name])
    train, held_out = (torch.tensor(list("\n".join(part).encode()), dtype=torch.int64) for part in parts)
    return Text(train, held_out)


@dataclass(frozen=True, eq=False)
class TextEntry(Entry):
    """An entry whose held-out data are ids and the ids that follow them, int64 [n, seq] each."""

    def perplexity(self, run: Callable[..., Sequence[Any]]) -> float:
        """exp of the mean cross-entropy of the next id over the held-out text."""
        total = 0.0
        for ids, following in zip(*(torch.split(part, _BATCH) for part in self.held_out), strict=True):
            scores = torch.as_tensor(run(ids)[0])
            total += float(functional.cross_entropy(scores.flatten(0, 1).float(), following.flatten(), reduction="sum"))
        return math.exp(total / self.held_out[1].numel())

    def evaluate(self, run: Callable[..., Sequence[Any]]) -> float:
        """The share of next ids that have the highest score, from 0 to 1."""
        correct = 0
        for ids, following in zip(*(torch.split(part, _BATCH) for part in self.held_out), strict=True):
            correct += int((torch.as_tensor(run(ids)[0]).argmax(-1) == following).sum())
        return correct / self.held_out[1].numel()


def load() -> TextEntry:
    """The trained decoder with its data."""
    model = CharLM().eval()
    model.load_state_dict(load_file(WEIGHTS))
    data = text()
    rows = (len(data.held_out) - 1) // LENGTH
    following = data.held_out[1 : rows * LENGTH + 1].view(rows, LENGTH)
    starts = torch.randint(0, len(data.train) - LENGTH, (_BATCHES * _BATCH,), generator=torch.Generator().manual_seed(1))
    windows = data.train[starts[:, None] + torch.arange(LENGTH)]
    return TextEntry(
        name=NAME,
        description="decoder of four blocks over bytes (RMSNorm, rotary, grouped queries, gated MLP), Python's help topics",
        model=model,
        inputs=(windows[:1],),
        dynamic_shapes={"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=LENGTH)}},
        calibration=[(batch,) for batch in torch.split(windows, _BATCH)],
        held_out=(data.held_out[: rows * LENGTH].view(rows, LENGTH), following),
    )
