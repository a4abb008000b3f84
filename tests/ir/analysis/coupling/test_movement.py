"""Where dimensions move, merge, divide, are joined, cut, copied and filled: labels follow, shape arguments are rewritten."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from coupled import captured, check_sliced
from fxpress_ir.analysis.coupling import coupled_groups
from fxpress_ir.analysis.coupling.reshape import matched
from torch import Tensor, nn


class Middle(nn.Module):
    """first [.., 8 -> 6], what stands between, last [.., count -> 3]; x is [batch, 4, 8]."""

    def __init__(self, body: Callable[[Middle, Tensor], Tensor], count: int = 6) -> None:
        super().__init__()
        self.body = body
        self.first, self.last, self.other = nn.Linear(8, 6), nn.Linear(count, 3), nn.Linear(8, 6)
        self.scale, self.table = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(10, 6))
        self.square, self.norm = nn.Parameter(torch.zeros(6, 6)), nn.BatchNorm1d(6)
        self.conv, self.up = nn.Conv1d(6, 6, 3, padding=1, groups=6), nn.ConvTranspose1d(6, 6, 2, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.body(self, self.first(x)))
        return made


def _fills(m: Middle, y: Tensor) -> Tensor:
    return y + torch.zeros(6) + torch.full((1, 6), 0.5) + y.new_ones(4, 6)


CASES: dict[str, tuple[Middle, int]] = {
    "permute": (Middle(lambda m, y: (y.permute(2, 0, 1) * m.scale.view(6, 1, 1)).permute(1, 2, 0)), 6),
    "movedim, swapaxes": (Middle(lambda m, y: torch.swapaxes(y.movedim(-1, 0).movedim(0, 1), 1, 2)), 6),
    "transposed matrix": (Middle(lambda m, y: y @ m.square.t()), 6),
    "mT": (Middle(lambda m, y: y @ m.square.mT), 6),
    "unsqueeze, squeeze": (Middle(lambda m, y: y.unsqueeze(2).squeeze(2)), 6),
    "stack": (Middle(lambda m, y: torch.stack([y, 2 * y], 1).sum(1)), 6),
    "expand": (Middle(lambda m, y: y + m.scale.expand(4, 6)), 6),
    "expand_as": (Middle(lambda m, y: y * y[..., :1].expand_as(y)), 5),
    "fills": (Middle(_fills), 6),
    "full_like": (Middle(lambda m, y: y + torch.ones_like(y) + torch.full_like(y, 2)), 6),
    "unflatten, flatten": (Middle(lambda m, y: y.unflatten(-1, (3, 2)).flatten(-2)), 3),
    "viewed and viewed back": (Middle(lambda m, y: y.view(-1, 4, 2, 3).reshape(-1, 24).view(-1, 4, 6)), 2),
    "tokens flattened": (Middle(lambda m, y: y.reshape(-1, 6).reshape(-1, 4, 6)), 6),
    "all flattened": (Middle(lambda m, y: y.flatten(1), 24), 6),
    "with the batch": (Middle(lambda m, y: torch.relu(y.mT.reshape(-1, 4))[:].view(-1, 6, 4).mT), 6),
    "with the batch, by size": (Middle(lambda m, y: (z := y.mT.reshape(-1, 4)).view(z.shape[0] // 6, 6, 4).mT), 6),
    "with the batch, in blocks": (Middle(lambda m, y: y.reshape(-1, 2).view(-1, 4, 6)), 3),
    "view_as": (Middle(lambda m, y: y.flatten(1).view_as(y)), 6),
    "split of sizes": (Middle(lambda m, y: torch.cat([*y.split([2, 4], -1)][::-1], -1)), 4),
    "split, its pieces added": (Middle(lambda m, y: torch.stack(y.split(2, -1)).sum(0), 2), 2),
    "slice": (Middle(lambda m, y: torch.cat([y[..., 2:], y[..., :2]], -1)), 4),
    "narrow": (Middle(lambda m, y: y.narrow(-1, 1, 5), 5), 5),
    "slice from the end": (Middle(lambda m, y: y[..., -4:-1], 3), 3),
    "tokens cut": (Middle(lambda m, y: y[:, 1:3]), 6),
    "tokens chosen": (Middle(lambda m, y: y[:, 0]), 6),
    "tokens indexed": (Middle(lambda m, y: y[:, torch.tensor([3, 1])].index_select(1, torch.tensor([0]))), 6),
    "a table's rows": (Middle(lambda m, y: y + m.table[torch.arange(4)]), 6),
    "rolled tokens": (Middle(lambda m, y: y.roll(1, 1).flip(1)), 6),
    "tokens padded": (Middle(lambda m, y: nn.functional.pad(y, (0, 0, 1, 2))), 6),
    "channels padded": (Middle(lambda m, y: nn.functional.pad(y, (1, 1)), 8), 6),
    "addmm": (Middle(lambda m, y: torch.addmm(m.scale, y.flatten(0, 1), m.square).view(-1, 4, 6)), 6),
    "baddbmm": (Middle(lambda m, y: torch.baddbmm(m.scale, y, m.square.expand(y.shape[0], 6, 6))), 6),
    "linear of a product": (Middle(lambda m, y: nn.functional.linear(y, m.square @ m.square)), 6),
    "einsum": (Middle(lambda m, y: torch.einsum("btc,cd->btd", y, m.square)), 6),
    "where": (Middle(lambda m, y: torch.where(y > m.scale, y, m.scale).masked_fill(y == 0, 1.0)), 6),
    "filled by a value": (Middle(lambda m, y: y.masked_fill(y > 0, torch.tensor(2.0)) + torch.tensor(1.0)), 6),
    "one-dimensional layers": (Middle(lambda m, y: m.up(m.conv(m.norm(y.transpose(1, 2)))).transpose(1, 2)), 6),
    "instance norm": (Middle(lambda m, y: nn.functional.instance_norm(y.mT, weight=m.scale, bias=m.scale).mT), 6),
    "pooled tokens": (Middle(lambda m, y: nn.functional.adaptive_avg_pool1d(y.mT, 1).mT + nn.functional.max_pool1d(y.mT, 2).mT), 6),
    "cumulated tokens": (Middle(lambda m, y: y.cumsum(1).softmax(1)), 6),
    "a normalized product": (Middle(lambda m, y: nn.functional.normalize(y, dim=-1)), 6),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_follow(name: str) -> None:
    model, atoms = CASES[name]
    values = [torch.randn(batch, 4, 8, generator=torch.Generator().manual_seed(batch)) for batch in (2, 3)]
    program = captured(model, values[0])
    groups = coupled_groups(program)
    assert max(group.size for group in groups.prunable if group.name.startswith("first")) == atoms
    assert all(group.exact for group in groups.prunable)
    check_sliced(program, [(value,) for value in values])


REFUSED: dict[str, tuple[Middle, str]] = {
    "every second": (Middle(lambda m, y: y[..., ::2], 3), "its entries are named by slice at slice_1"),
    "indexed": (Middle(lambda m, y: y[..., torch.tensor([1, 0, 2])], 3), "its entries are named by index at index"),
    "rolled": (Middle(lambda m, y: y.roll(1, -1)), "its entries change places by roll at roll"),
    "reflected": (Middle(lambda m, y: nn.functional.pad(y, (1, 1), mode="reflect"), 8), "it is padded by pad at pad"),
    "places counted": (Middle(lambda m, y: y + torch.arange(6)), "it is made by arange at arange"),
    "one by one": (Middle(lambda m, y: torch.stack(y.unbind(-1), -1)), "its entries are named by unbind at unbind"),
    "before the batch": (
        Middle(lambda m, y: y.permute(2, 0, 1).contiguous().flatten(0, 1).mean(0), 4),
        "it is merged with a dimension of symbolic size by flatten at flatten",
    ),
    "another dtype": (Middle(lambda m, y: y.view(torch.int32).float()), "unprunable: view at view"),
    "a window": (Middle(lambda m, y: nn.functional.avg_pool1d(y, 3, 1, 1)), "a window slides over it by avg_pool1d at avg_pool1d"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_leave_says_why(name: str) -> None:
    model, reason = REFUSED[name]
    assert coupled_groups(captured(model, torch.randn(2, 4, 8)))["first"].unprunable == reason


def test_a_dimension_whose_size_is_read_stays() -> None:
    program = captured(CASES["with the batch"][0], torch.randn(2, 4, 8))
    assert coupled_groups(program)["first"].prunable
    edit = program.edit()
    (view,) = (node for node in edit.graph.nodes if node.name == "view")
    with edit.graph.inserting_before(view):
        size = edit.graph.call_function(torch.ops.aten.sym_size.int, (view.args[0], 0))
        view.update_arg(1, [edit.graph.call_function(operator.floordiv, (size, 6)), 6, 4])
    assert coupled_groups(edit.finish())["first"].unprunable == "its size is read by sym_size at sym_size_int"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 3), (6,), [([0, 1], [0])]),
        ((6,), (2, 3), [([0], [0, 1])]),
        ((5, 6, 7), (5, 2, 3, 7), [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        ((4, 6), (8, 3), [([0, 1], [0, 1])]),
        ((2, 1, 3), (1, 2, 3, 1), [([0], [1]), ([2], [2])]),
        ((1,), (1, 1), []),
        ((2, 3), (5,), None),
        ((2, 3), (2,), None),
        ((2,), (2, 3), None),
    ],
)
def test_runs_of_dimensions_with_equal_products(before: tuple[int, ...], after: tuple[int, ...], expected: object) -> None:
    assert matched(before, after) == expected
