"""Every decomposition is the layer again at full ranks, and an approximation that gets no worse with them below."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir.errors import PassError
from fxpress_passes.low_rank.decompositions import DECOMPOSITIONS, Piece
from fxpress_passes.low_rank.lens import Lens
from torch import Tensor
from torch.nn import functional

SHAPE = (6, 5, 3, 2)


def _weight() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _inputs() -> Tensor:
    x = torch.randn(40, 5, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * torch.tensor([4.0, 2, 1, 0.5, 0.1], dtype=torch.float64)[:, None, None]


LENSES = {
    "plain": Lens(),
    "moment": Lens(moment=_inputs().flatten(1).T @ _inputs().flatten(1) / 40),
    "rows": Lens(rows=torch.linspace(0.2, 2, 6, dtype=torch.float64)),
}
CASES = [(kind, lens) for kind in DECOMPOSITIONS for lens in LENSES]


def _through(pieces: tuple[Piece, ...], x: Tensor) -> Tensor:
    for piece in pieces:
        x = functional.conv2d(x, piece.weight)
    return x


@pytest.mark.parametrize(("kind", "lens"), CASES)
def test_full_ranks_give_the_layer_and_each_rung_has_the_parameters_it_says(kind: str, lens: str) -> None:
    found = DECOMPOSITIONS[kind](_weight(), LENSES[lens])
    assert found.rungs[0].lost == pytest.approx(0, abs=1e-12)
    pieces = found.pieces(found.rungs[0].ranks)
    assert torch.allclose(_through(pieces, _inputs()), functional.conv2d(_inputs(), _weight()), atol=1e-9)
    for before, rung in zip(found.rungs, found.rungs[1:], strict=False):
        assert rung.parameters < before.parameters
        assert rung.lost >= before.lost - 1e-12
        assert sum(piece.weight.numel() for piece in found.pieces(rung.ranks)) == rung.parameters


# moments of spatial and tucker leave correlations out: what they measure is not quite the layer's error
@pytest.mark.parametrize(("kind", "lens"), [case for case in CASES if case[0] == "channel" or case[1] != "moment"])
def test_what_is_lost_is_what_the_rung_says_or_less(kind: str, lens: str) -> None:
    weight = _weight()
    found = DECOMPOSITIONS[kind](weight, LENSES[lens])
    rows, moment = LENSES[lens].rows, LENSES[lens].moment
    scale = torch.ones(6, dtype=torch.float64) if rows is None else rows
    eye = torch.eye(30, dtype=torch.float64).reshape(30, 5, 3, 2)
    for rung in found.rungs:
        gap = (weight.flatten(1) - _through(found.pieces(rung.ranks), eye).flatten(1).T) * scale[:, None]
        whole = weight.flatten(1) * scale[:, None]
        energies = [float((part.square() if moment is None else part @ moment * part).sum()) for part in (gap, whole)]
        assert energies[0] <= energies[1] * (rung.lost + 1e-9)
        if kind != "tucker":
            assert energies[0] == pytest.approx(energies[1] * rung.lost, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", ["spatial", "tucker"])
def test_what_inputs_weigh_brings_their_layers_results_nearer(kind: str) -> None:
    exact = functional.conv2d(_inputs(), _weight())
    plain, weighed = (DECOMPOSITIONS[kind](_weight(), LENSES[lens]) for lens in ("plain", "moment"))
    ranks = plain.rungs[len(plain.rungs) * 2 // 3].ranks
    errors = [float((_through(found.pieces(ranks), _inputs()) - exact).square().sum()) for found in (plain, weighed)]
    assert errors[1] < 0.8 * errors[0]


def test_shapes_that_a_decomposition_gains_nothing_on_are_refused() -> None:
    shapes = [torch.Size(shape) for shape in ((4, 4), (4, 4, 1, 1), (4, 4, 3, 1), (4, 4, 3, 3))]
    refused = {kind: [DECOMPOSITIONS[kind].refused(shape) is not None for shape in shapes] for kind in DECOMPOSITIONS}
    assert refused == {"channel": [False] * 4, "spatial": [True] * 3 + [False], "tucker": [True, True, False, False]}


@pytest.mark.parametrize(("kind", "ranks"), [("channel", (7,)), ("spatial", (0,)), ("tucker", (2,))])
def test_ranks_that_do_not_fit_are_an_error(kind: str, ranks: tuple[int, ...]) -> None:
    with pytest.raises(PassError, match="do not fit"):
        DECOMPOSITIONS[kind](_weight(), Lens()).pieces(ranks)
