"""Who takes a value's factors up: a normalisation, the rows of a linear layer, a table; or nobody, with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import captured
from fxpress_ir import Program
from fxpress_passes.equalize.sites import Site, is_layer, sites
from torch import Tensor, nn
from torch.nn import functional

_aten = torch.ops.aten


class Net(nn.Module):
    def __init__(self, body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.first, self.second, self.out = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)
        self.small = nn.Linear(8, 4)
        self.norm, self.square = nn.LayerNorm(8), nn.RMSNorm(8)
        self.slopes = nn.PReLU(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def found(body: Callable[[Net, Tensor], Tensor]) -> tuple[Program, list[Site]]:
    program = captured(Net(body), 2, 5, 8)
    return program, [site for site in sites(program) if isinstance(site, Site)]


def test_a_normalisation_takes_factors_and_its_shift_only_where_it_has_one() -> None:
    _, (site,) = found(lambda m, x: m.out(m.norm(x)))
    assert (site.kind, site.shifts, site.producer) == ("norm", True, site.value)
    _, (site,) = found(lambda m, x: m.first(y := m.square(x)) + m.second(y) + y)
    assert (site.kind, site.shifts, [str(reader) for reader in site.readers]) == ("norm", False, ["linear", "linear_1"])


@pytest.mark.parametrize(
    ("body", "rows", "shifts"),
    [
        (lambda m, x: m.out(m.first(x)), list(range(8)), True),
        (lambda m, x: m.out(m.first(x).relu()), list(range(8)), False),
        (lambda m, x: m.out(functional.leaky_relu(m.first(x), 0.1)), list(range(8)), False),
        (lambda m, x: m.out(x.tanh() * m.second(x)), list(range(8)), False),
        (lambda m, x: m.out(m.first(x).view(-1, 5, 2, 4).transpose(2, 3).reshape(-1, 5, 8)), [0, 4, 1, 5, 2, 6, 3, 7], True),
        (lambda m, x: m.out((x @ x.transpose(1, 2)).softmax(-1) @ m.first(x)), list(range(8)), True),
        (lambda m, x: m.out(_aten._safe_softmax(x @ x.transpose(1, 2), -1) @ m.first(x)), list(range(8)), False),
        (lambda m, x: m.out(m.small(x)[:, :, None].expand(-1, -1, 2, -1).reshape(-1, 5, 8)), [0, 1, 2, 3, 0, 1, 2, 3], True),
    ],
)
def test_the_rows_that_a_layers_channels_come_from(body: Callable[[Net, Tensor], Tensor], rows: list[int], shifts: bool) -> None:
    _, (site,) = found(body)
    assert site.kind == "rows"
    assert is_layer(site.producer)
    assert site.rows is not None
    assert (site.rows.tolist(), site.shifts) == (rows, shifts)


def test_a_function_of_one_value_is_a_table_and_knows_the_layer_that_it_alone_reads() -> None:
    program, (site,) = found(lambda m, x: m.out((y := m.first(x)) * torch.sigmoid(y)))
    (layer,) = (node for node in program.graph.nodes if is_layer(node) and node not in site.readers)
    assert (site.kind, str(site.producer), site.before) == ("table", "mul", (layer, tuple(layer.users)))
    _, (site,) = found(lambda m, x: m.out(functional.gelu(y := m.first(x))) + y[..., :3])
    assert (site.kind, site.before) == ("table", None)
    _, (site,) = found(lambda m, x: m.out(y := functional.gelu(m.first(x))) + y[..., :3])
    assert (site.kind, site.before) == ("table", None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: m.out(x), "nothing that could be scaled comes before it"),
        (lambda m, x: m.out(m.slopes(x)), "its input comes from aten.prelu.default, which takes no factors"),
        (
            lambda m, x: m.out(m.first(x) @ m.second(x).transpose(1, 2) @ x),
            "its input comes from aten.matmul.default, which takes no factors",
        ),
        (
            lambda m, x: m.out(m.first(x).reshape(-1, 8, 5).transpose(1, 2)),
            "its input comes from aten.transpose.int, which takes no factors",
        ),
        (lambda m, x: m.out(x.tanh() * m.first(x)[:, :1]), "its input comes from aten.mul.Tensor, which takes no factors"),
    ],
)
def test_what_takes_no_factors(body: Callable[[Net, Tensor], Tensor], reason: str) -> None:
    program = captured(Net(body), 2, 5, 8)
    reasons = [site[1] for site in sites(program) if isinstance(site, tuple)]
    assert reason in reasons
    assert not [site for site in sites(program) if isinstance(site, Site) and str(site.readers[0]) == "linear_2"]
