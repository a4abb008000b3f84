"""Factors from what was seen of a value and the weights that meet it: the formula, the clip, shared rows, and none where none helps."""

from __future__ import annotations

import torch
from float_programs import captured, sample
from fxpress_passes.equalize.factors import Channels, Observer, best
from torch import Tensor


def seen(*widths: float, rows: int = 200) -> Channels:
    """Uniform values, each channel as wide as said."""
    values = (torch.rand(rows, len(widths), generator=torch.Generator().manual_seed(0)) * 2 - 1) * torch.tensor(widths)
    return Channels(values.amin(0), values.amax(0), values)


def weight(*heaviest: float, outputs: int = 6) -> Tensor:
    values = torch.rand(outputs, len(heaviest), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return values / values.abs().amax(0) * torch.tensor(heaviest)


def test_the_factor_is_smooth_quants() -> None:
    """max|x|^alpha / max|w|^(1 - alpha), up to a number for all channels."""
    x, w = seen(50.0, 1.0, 2.0, 0.5), weight(1.0, 4.0, 1.0, 0.5)
    found = best(x, [w], (0.6,), shifts=False, rows=None, bits=8)
    assert found is not None
    reach = torch.maximum(x.high, -x.low)
    wanted = reach**0.6 / torch.tensor([1.0, 4.0, 1.0, 0.5]) ** 0.4
    torch.testing.assert_close(found.scale / found.scale.max(), wanted / wanted.max())
    assert not found.shift.any()


def test_a_shift_centres_each_channel() -> None:
    x = seen(1.0, 1.0, 1.0)
    x = Channels(x.low + 100, x.high + 100, x.rows + 100)
    found = best(x, [weight(1.0, 1.0, 1.0)], (0.5,), shifts=True, rows=None, bits=8)
    assert found is not None
    torch.testing.assert_close(found.shift, (x.low + x.high) / 2)


def test_the_heaviest_of_all_readers_counts() -> None:
    x = seen(50.0, 1.0)
    found = best(x, [weight(1.0, 1.0), weight(1.0, 16.0)], (0.5,), shifts=False, rows=None, bits=8)
    assert found is not None
    reach = torch.maximum(x.high, -x.low)
    torch.testing.assert_close(found.scale[1] / found.scale[0], ((reach[1] / 16) / reach[0]).sqrt())


def test_channels_of_one_row_share_its_factor() -> None:
    found = best(seen(50.0, 1.0, 2.0, 1.0), [weight(1.0, 1.0, 1.0, 1.0)], (0.8,), False, torch.tensor([0, 1, 0, 1]), 8)
    assert found is not None
    assert found.scale[0] == found.scale[2] > found.scale[1] == found.scale[3]


def test_the_best_strength_wins_and_none_where_none_helps() -> None:
    one = seen(50.0, 1.0, 1.0, 1.0)
    assert best(one, [weight(1.0, 1.0, 1.0, 1.0)], (0.5,), False, None, 8) is not None
    even = seen(1.0, 1.0, 1.0, 1.0)
    assert best(even, [weight(1.0, 1.0, 1.0, 1.0)], (0.5, 0.9), True, None, 8) is None


def test_a_clipped_range_leaves_rare_outliers_out() -> None:
    x = seen(1.0, 1.0)
    x.rows[0, 0] = 1000.0
    x = Channels(x.rows.amin(0), x.rows.amax(0), x.rows)
    assert float(x.high[0]) == 1000
    assert x.clipped(100.0) is x
    clipped = x.clipped(99.0)
    assert float(clipped.high[0]) < 1.0
    assert float(clipped.low[0]) > -1.0
    found = best(x, [weight(1.0, 1.0)], (1.0,), False, None, 8)
    assert found is None or float(found.scale[0] / found.scale[1]) > 500
    assert best(clipped, [weight(1.0, 1.0)], (1.0,), False, None, 8) is None  # the rest is even


def test_what_is_observed_is_merged_and_bounded() -> None:
    program = captured(lambda x: torch.tanh(x).relu(), 2, 3, 4)
    observer = Observer(program, frozenset({"tanh"}), sampled=50)
    batches = [sample(program, 8, seed)[0] for seed in range(4)]
    for batch in batches:
        observer.observe((batch,))
    (found,) = observer.found.values()
    values = torch.tanh(torch.cat(batches)).reshape(-1, 4)
    assert torch.equal(found.low, values.amin(0))
    assert torch.equal(found.high, values.amax(0))
    assert found.rows.shape == (50, 4)
    assert all(bool((values == row).all(1).any()) for row in found.rows)
