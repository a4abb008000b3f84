"""What a weight lost, against NumPy: to its quantiser, or since another program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float_programs import Chain, captured, measured, refusals
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, PlaceQuantizers
from fxpress_passes.low_rank.decompositions import Piece
from fxpress_passes.quantize.lost import lost_on_the_way, lost_since
from fxpress_passes.quantize.side_path import SidePath, add_side_paths
from torch import Tensor, nn


def _net() -> Program:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding="same"), nn.Flatten(), nn.Linear(64, 5))
    torch.manual_seed(0)
    for layer in layers:
        layer.apply(lambda one: one.reset_parameters() if hasattr(one, "reset_parameters") else None)
    return captured(Chain(*layers), 1, 3, 6, 6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_quantiser_loses_what_numpy_says(bits: int) -> None:
    program, context = _net(), Context()
    simulated = PlaceQuantizers(weight_bits=bits, edge_bits=bits).apply(program, measured(program))
    found = lost_on_the_way(simulated, context)
    assert [lost.node.name for lost in found] == ["conv2d", "conv2d_1", "linear"]
    assert context.refusals == []
    most = 2 ** (bits - 1) - 1
    for lost, name in zip(found, ("0.weight", "2.weight", "4.weight"), strict=True):
        weight = program.tensors[name].detach().numpy()
        scale = simulated.tensors[f"{lost.node.name}.scale"].numpy().astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1))
        rounded = np.clip(np.rint(weight / scale), -most, most) * scale
        assert np.array_equal(lost.weight.numpy(), weight.astype(np.float64))
        assert np.allclose(lost.error.numpy(), weight.astype(np.float64) - rounded, rtol=0, atol=1e-7)
        assert lost.error.abs().max() > 0


@pytest.mark.parametrize("bits", [None, 4])
def test_what_a_pass_before_lost_counts_as_long_as_the_weight_is_as_it_left_it(bits: int | None) -> None:
    program = _net()
    sparse = _changed(program, "4.weight", -program.tensors["4.weight"].detach() * (torch.arange(64) % 2))
    again = _changed(sparse, "4.weight", torch.ones(5, 64))
    for now, whole in ((sparse, program), (again, again)):
        after = now if bits is None else PlaceQuantizers(weight_bits=bits).apply(now, measured(program))
        found = {lost.node.name: lost for lost in lost_on_the_way(after, Context(losses=((program, sparse),)))}
        if bits is None and whole is again:
            assert found == {}
            continue
        assert list(found) == (["linear"] if bits is None else ["conv2d", "conv2d_1", "linear"])
        weights = [one.tensors["4.weight"].detach().double().numpy() for one in (whole, now)]
        quantised = {lost.node.name: lost for lost in lost_on_the_way(after, Context())}
        rounding = quantised["linear"].error.numpy() if bits else 0
        lost = found["linear"]
        assert np.array_equal(lost.weight.numpy(), weights[0])
        assert np.allclose(lost.error.numpy(), weights[0] - weights[1] + rounding, rtol=0, atol=1e-12)
        assert (lost.pruned is None) == (whole is now)
        assert lost.pruned is None or np.array_equal(lost.pruned.numpy(), weights[0] - weights[1])


def test_two_losses_add_up() -> None:
    program = _net()
    first = _changed(program, "4.weight", torch.ones(5, 64))
    second = _changed(first, "4.weight", torch.ones(5, 64))
    (lost,) = lost_on_the_way(second, Context(losses=((program, first), (first, second))))
    assert torch.equal(lost.weight, program.tensors["4.weight"].detach().double())


def test_weights_without_a_quantiser_lost_nothing() -> None:
    assert lost_on_the_way(_net(), Context()) == []


def _changed(program: Program, name: str, by: Tensor) -> Program:
    edit = program.edit()
    edit.tensors[name] = program.tensors[name].detach() + by
    return edit.finish()


def test_since_a_reference_only_changed_weights_count_and_by_how_much() -> None:
    program = _net()
    by = torch.zeros(5, 64)
    by[2, 3], by[4] = 0.5, -0.25
    after = _changed(program, "4.weight", by)
    (lost,) = lost_since(program, after, Context())
    assert lost.node.name == "linear"
    assert lost.node.graph is after.graph
    before, now = (one.tensors["4.weight"].detach().double().numpy() for one in (program, after))
    assert np.array_equal(lost.weight.numpy(), before)
    assert np.array_equal(lost.error.numpy(), before - now)
    assert np.count_nonzero(lost.error.numpy()) == 65
    assert lost_since(program, program, Context()) == []


def test_a_bias_that_changed_is_no_lost_weight() -> None:
    program = _net()
    assert lost_since(program, _changed(program, "4.bias", torch.ones(5)), Context()) == []


@pytest.mark.parametrize("layers", [(nn.Linear(6, 6), nn.Linear(6, 6)), (nn.Linear(6, 6), nn.GELU())], ids=["more", "another"])
def test_a_reference_of_other_nodes_is_an_error(layers: tuple[nn.Module, ...]) -> None:
    program = captured(Chain(nn.Linear(6, 6), nn.ReLU()), 1, 6)
    with pytest.raises(PassError, match="compensate: reference has other nodes; give the program right before"):
        lost_since(captured(Chain(*layers), 1, 6), program, Context())


def test_grouped_convolutions_are_refused_by_both() -> None:
    program = captured(Chain(nn.Conv2d(4, 6, 3, groups=2)), 1, 4, 5, 5)
    simulated = PlaceQuantizers().apply(program, measured(program))
    for found in (lambda context: lost_on_the_way(simulated, context), lambda context: lost_since(program, program, context)):
        context = Context()
        assert found(context) == []
        assert refusals(context) == ["conv2d: its weight is in 2 groups, which share no directions"]


def test_a_layer_with_a_side_path_and_the_path_itself_are_left_out() -> None:
    program = captured(Chain(nn.Linear(6, 5), nn.Linear(5, 4)), 1, 6)
    node = next(node for node in program.graph.nodes if node.name == "linear")
    pieces = (Piece(torch.ones(1, 6).double()), Piece(torch.ones(5, 1).double()))
    added = add_side_paths(program, [SidePath(node, pieces)])
    edit = added.edit()
    for name, tensor in added.tensors.items():
        edit.tensors[name] = tensor.detach() + 1
    assert [lost.node.name for lost in lost_since(added, edit.finish(), Context())] == ["linear_1"]
