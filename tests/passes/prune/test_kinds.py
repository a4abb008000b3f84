"""Heads, features of a stream, channels: what decides which pass takes a group."""

from __future__ import annotations

import torch
from encoder import encoder_program
from float_programs import ResidualNet, captured
from fxpress_ir import Program, capture
from fxpress_ir.analysis.coupling import coupled_groups
from fxpress_passes.prune.kinds import kind_of
from torch import Tensor, nn
from torch.nn import functional


def kinds(program: Program) -> dict[str, str]:
    groups = coupled_groups(program)
    return {group.name: kind_of(group, groups, program).name for group in groups.prunable}


class Written(nn.Module):
    """Attention as products of matrices, on a table's rows, without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.query, self.key, self.value = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        q, k, v = (part(x).unflatten(-1, (4, 2)).transpose(1, 2) for part in (self.query, self.key, self.value))
        y = functional.softmax(q @ k.transpose(2, 3), -1) @ v
        result: Tensor = self.head(x + self.out(y.transpose(1, 2).flatten(2)))
        return result


def test_an_encoder_has_all_three() -> None:
    found = kinds(encoder_program())
    assert found == {
        "stem": "width",
        **{f"layers.{n}.{part}": kind for n in (0, 1) for part, kind in (("query", "heads"), ("up", "channels"))},
    }


def test_a_table_of_embeddings_makes_a_width_that_no_norm_counts() -> None:
    program = capture(Written().eval(), (torch.zeros(2, 5, dtype=torch.int64),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert kinds(program) == {"table": "width", "query": "heads"}


def test_convolutions_have_channels() -> None:
    assert set(kinds(captured(ResidualNet(), 1, 3, 8, 8)).values()) == {"channels"}
