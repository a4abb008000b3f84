"""Attention in the ways it is written: heads are the atoms, with fewer heads of keys a head of keys and its queries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from coupled import captured, check_sliced, table
from fxpress_ir.analysis.coupling import coupled_groups
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, SIZE = 12, 4, 3


class Attention(nn.Module):
    """q, k, v [batch, tokens, heads * size] and what makes one value [batch, tokens, heads * size] of them."""

    def __init__(self, body: Callable[..., Tensor], keys: int = HEADS) -> None:
        super().__init__()
        self.body, self.keys = body, keys
        self.q, self.k, self.v = (nn.Linear(WIDTH, heads * SIZE) for heads in (HEADS, keys, keys))
        self.o = nn.Linear(HEADS * SIZE, 5)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.o(self.body(self, self.q(x), self.k(x), self.v(x)))
        return made


def heads(x: Tensor, count: int = HEADS) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def written_out(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = heads(q) @ heads(k).transpose(-1, -2) * SIZE**-0.5
    return merged(scores.softmax(-1) @ heads(v))


def fused(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return merged(functional.scaled_dot_product_attention(heads(q), heads(k), heads(v)))


def by_letters(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.view(x.shape[0], x.shape[1], HEADS, SIZE) for x in (q, k, v))
    return torch.einsum("bhqk,bkhd->bqhd", torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1), v).flatten(2)


def repeated(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (heads(x, m.keys)[:, :, None].expand(-1, -1, HEADS // m.keys, -1, -1).flatten(1, 2) for x in (k, v))
    return merged(functional.scaled_dot_product_attention(heads(q), k, v))


def interleaved(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (heads(x, m.keys).repeat_interleave(HEADS // m.keys, 1) for x in (k, v))
    return merged(functional.scaled_dot_product_attention(heads(q), k, v))


def grouped(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return merged(functional.scaled_dot_product_attention(heads(q), heads(k, m.keys), heads(v, m.keys), enable_gqa=True))


def broadcast(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return merged((heads(q) @ heads(k, 1).transpose(-1, -2)).softmax(-1) @ heads(v, 1))


def one_head(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


def in_batches(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads folded into the batch, whose size is symbolic."""
    q, k, v = (heads(x).reshape(-1, x.shape[1], SIZE) for x in (q, k, v))
    return merged(torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(-1, HEADS, q.shape[1], SIZE))


def layers(q: int, k: int, names: str = "qkv") -> tuple[str, ...]:
    counts = {"q": q, "k": k, "v": k}
    return tuple(f"{name}.{part}[0] x{counts[name]}" for name in names for part in ("weight", "bias"))


WHOLE = {"q": (HEADS, *layers(SIZE, SIZE), f"o.weight[1] x{SIZE}")}
PAIRS = {"q": (2, *layers(2 * SIZE, SIZE), f"o.weight[1] x{2 * SIZE}")}
CASES = {
    "written out": (Attention(written_out), WHOLE),
    "fused": (Attention(fused), WHOLE),
    "einsum": (Attention(by_letters), WHOLE),
    "grouped queries, expanded": (Attention(repeated, 2), PAIRS),
    "grouped queries, interleaved": (Attention(interleaved, 2), PAIRS),
    "grouped queries, by the operator": (Attention(grouped, 2), PAIRS),
    "one head of keys": (Attention(broadcast, 1), {"q": (HEADS, *layers(SIZE, 1, "q"), f"o.weight[1] x{SIZE}")}),
    "one head": (
        Attention(one_head),
        {
            "q": (12, "q.weight[0]", "q.bias[0]", "k.weight[0]", "k.bias[0]"),
            "v": (12, "v.weight[0]", "v.bias[0]", "o.weight[1]"),
        },
    ),
    "heads in the batch": (Attention(in_batches), WHOLE),
}


@pytest.mark.parametrize("name", CASES)
def test_heads_are_atoms(name: str) -> None:
    model, expected = CASES[name]
    tokens = [torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(batch)) for batch, length in ((2, 5), (3, 7))]
    program = captured(model, tokens[0], dynamic=("batch", "seq"))
    groups = coupled_groups(program)
    assert table(groups) == {group: (size, *sorted(map(str, sites))) for group, (size, *sites) in expected.items()}
    check_sliced(program, [(value,) for value in tokens])


class Several(nn.Module):
    """PyTorch's own layer, which keeps its weights in one and folds heads into the batch."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.into, self.attention = nn.Linear(6, WIDTH), nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x)
        made: Tensor = self.out(y + self.attention(y, y, y, need_weights=False)[0])
        return made


@pytest.mark.parametrize("batch_first", [True, False])
def test_pytorchs_own_attention(batch_first: bool) -> None:
    tokens = [torch.randn(batch, 5, 6, generator=torch.Generator().manual_seed(batch)) for batch in (2, 3)]
    program = captured(Several(batch_first=batch_first), tokens[0])
    groups = coupled_groups(program)
    assert {group.name: group.size for group in groups.prunable} == {"into": WIDTH, "attention.in_proj_weight": HEADS}
    check_sliced(program, [(value,) for value in tokens])


class InOne(nn.Module):
    """Queries, keys and values of one layer [batch, tokens, 3 * heads * size], three ways to take them apart."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.qkv, self.o = nn.Linear(WIDTH, 3 * HEADS * SIZE), nn.Linear(HEADS * SIZE, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(x)
        if self.way == "3 heads size":
            q, k, v = y.reshape(*x.shape[:2], 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.way == "heads 3 size":
            q, k, v = y.view(*x.shape[:2], HEADS, 3 * SIZE).transpose(1, 2).chunk(3, -1)
        else:
            q, k, v = map(heads, y.split(HEADS * SIZE, -1))
        made: Tensor = self.o(merged(functional.scaled_dot_product_attention(q, k, v)))
        return made


@pytest.mark.parametrize("way", ["3 heads size", "heads 3 size", "split"])
def test_one_layer_of_queries_keys_and_values(way: str) -> None:
    tokens = [torch.randn(batch, 5, WIDTH, generator=torch.Generator().manual_seed(batch)) for batch in (1, 3)]
    program = captured(InOne(way), tokens[0])
    groups = coupled_groups(program)
    assert table(groups) == {"qkv": (HEADS, f"o.weight[1] x{SIZE}", f"qkv.bias[0] x{3 * SIZE}", f"qkv.weight[0] x{3 * SIZE}")}
    wanted = range(SIZE, 2 * SIZE) if way != "heads 3 size" else range(3 * SIZE, 6 * SIZE)
    steps = (0, 12, 24) if way != "heads 3 size" else (0,)
    assert groups.indices("qkv", 1)["qkv.weight", 0] == tuple(step + place for step in steps for place in wanted)
    check_sliced(program, [(value,) for value in tokens])


class Rotary(nn.Module):
    """Rotary positions and a bias for each head and place."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.places = nn.Parameter(torch.zeros(4, 5, 5))
        self.register_buffer("frequencies", torch.tensor([1.0, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(5)[:, None] * self.frequencies
        angles = torch.cat([angles, angles], -1)

        def turned(y: Tensor) -> Tensor:
            return y * angles.cos() + torch.cat([-y[..., 2:], y[..., :2]], -1) * angles.sin()

        q, k, v = (y.view(-1, 5, 4, 4).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        made: Tensor = self.o(merged(functional.scaled_dot_product_attention(turned(q), turned(k), v, self.places)))
        return made


def test_rotary_positions_turn_heads_that_leave_as_a_whole() -> None:
    tokens = [torch.randn(batch, 5, 16, generator=torch.Generator().manual_seed(batch)) for batch in (1, 3)]
    program = captured(Rotary(), tokens[0])
    expected = ("k.weight[0] x4", "o.weight[1] x4", "places[0]", "q.weight[0] x4", "v.weight[0] x4")
    assert table(coupled_groups(program)) == {"q": (4, *expected)}
    check_sliced(program, [(value,) for value in tokens])


class GatedMlp(nn.Module):
    """A gate and what it gates, of two layers or halves of one; a residual stream and its norm."""

    def __init__(self, *, halves: bool) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(20, 8), nn.RMSNorm(8), nn.Linear(8, 3)
        self.gate, self.down = nn.Linear(8, 12 if halves else 6), nn.Linear(6, 8)
        self.up = None if halves else nn.Linear(8, 6)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        y = self.norm(x)
        gate, up = self.gate(y).chunk(2, -1) if self.up is None else (self.gate(y), self.up(y))
        made: Tensor = self.head(x + self.down(functional.silu(gate) * up))
        return made


@pytest.mark.parametrize("halves", [True, False])
def test_a_gate_leaves_with_what_it_gates(halves: bool) -> None:
    ids = [torch.randint(0, 20, (batch, 5), generator=torch.Generator().manual_seed(batch)) for batch in (1, 3)]
    program = captured(GatedMlp(halves=halves), ids[0])
    groups = coupled_groups(program)
    hidden = ("gate.weight[0] x2", "gate.bias[0] x2") if halves else ("gate.weight[0]", "gate.bias[0]", "up.weight[0]", "up.bias[0]")
    readers = ("gate.weight[1]",) if halves else ("gate.weight[1]", "up.weight[1]")
    assert table(groups) == {
        "embed": (8, *sorted(("embed.weight[1]", "norm.weight[0]", *readers, "down.weight[0]", "down.bias[0]", "head.weight[1]"))),
        "gate": (6, *sorted((*hidden, "down.weight[1]"))),
    }
    assert groups["embed"].inexact == "its entries are counted by rms_norm at rms_norm"
    check_sliced(program, [(value,) for value in ids])
