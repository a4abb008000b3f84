"""Where a matrix was put: the same function, and the values in between turned by it."""

from __future__ import annotations

import pytest
import torch
from decoders import classifier, decoder, prepared
from float_programs import BATCHES, captured, operators, sample
from fxpress_ir import Edit, Program, verify
from fxpress_ir.ops import arguments
from fxpress_passes.contract import difference
from fxpress_passes.equalize.hadamard import hadamard
from fxpress_passes.equalize.residual import Residual, residuals
from fxpress_passes.equalize.rotation import gain_and_shift, insert, rotate_residual, rotate_rows, turned
from torch import Tensor, fx, nn

LINEAR, RMS_NORM, GELU = "aten.linear", "aten.rms_norm", "aten.gelu"


def _part(size: int) -> Tensor:
    return hadamard(size, torch.Generator().manual_seed(3))


def _finished(edit: Edit, before: Program) -> Program:
    after = edit.finish()
    verify(after)
    for batch in BATCHES:
        inputs = sample(before, batch, seed=1)
        assert difference(before.run(*inputs), after.run(*inputs)).relative < 4e-6  # float32 noise of sums in another order
    return after


def _layers(program: Program) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]


def test_blocks_are_turned() -> None:
    x, part = torch.randn(2, 3, 8), _part(4)
    assert torch.allclose(turned(part, x), x @ torch.block_diag(part, part).T.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("body", [decoder, classifier])
def test_a_residual_stream_is_turned(body: object, norm: type[nn.Module]) -> None:
    """Gains, shifts and centring are somewhere else then: what is left are root mean squares of a narrow stream."""
    before = prepared(body, norm)  # type: ignore[arg-type]
    (stream,) = residuals(before)
    assert isinstance(stream, Residual)
    edit = before.edit()
    rotate_residual(edit, stream, _part(32))
    after = _finished(edit, before)
    norms = [node for node in after.graph.nodes if node.target is torch.ops.aten.rms_norm.default]
    assert [arguments(node)["weight"] for node in norms] == [None] * 3
    assert len(operators(after)) == len(operators(before))
    assert sum(map(torch.numel, after.tensors.values())) <= sum(map(torch.numel, before.tensors.values()))


@pytest.mark.parametrize("size", [8, 2])
def test_a_layers_rows_are_turned(size: int) -> None:
    before = captured(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), 2, 4)
    first, second = _layers(before)
    edit = before.edit()
    rotate_rows(edit, first, [second], _part(size))
    after = _finished(edit, before)
    x = torch.randn(2, 4)
    values = [torch.nn.functional.linear(x, *(program.tensors[name] for name in _names(program))) for program in (before, after)]
    assert torch.allclose(values[1], turned(_part(size), values[0]), rtol=0, atol=1e-6)


def _names(program: Program) -> list[str]:
    return [str(node.target) for node in _layers(program)[0].args[1:]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (8, [LINEAR, LINEAR]),
        (4, ["aten.sym_size.int", "aten.reshape", LINEAR, "aten.flatten.using_ints", LINEAR]),
    ],
)
def test_a_layer_of_its_own(size: int, expected: list[str]) -> None:
    before = captured(nn.Sequential(nn.GELU(), nn.Linear(8, 3)), 2, 5, 8)
    (layer,) = _layers(before)
    edit = before.edit()
    insert(edit, layer.args[0], [layer], _part(size))  # type: ignore[arg-type]
    assert operators(_finished(edit, before)) == [GELU, *expected]


def test_others_read_what_they_read() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = x.tanh()
            return self.a(y) + self.b(y) + y

    before = captured(Two(), 2, 8)
    layers = _layers(before)
    edit = before.edit()
    insert(edit, layers[0].args[0], layers, _part(8))  # type: ignore[arg-type]
    after = _finished(edit, before)
    assert operators(after).count(LINEAR) == 3
    assert sum(node.target is torch.ops.aten.tanh.default and len(node.users) == 2 for node in after.graph.nodes) == 1


@pytest.mark.parametrize(("affine", "expected"), [(True, (2.0, 3.0)), (False, (1.0, 0.0))])
def test_gains_and_shifts(affine: bool, expected: tuple[float, float]) -> None:
    norm = nn.LayerNorm(4, elementwise_affine=affine)
    if affine:
        norm.weight.data, norm.bias.data = torch.full((4,), 2.0), torch.full((4,), 3.0)
    program = captured(norm, 2, 4)
    node = next(node for node in program.graph.nodes if node.target is torch.ops.aten.layer_norm.default)
    assert tuple(float(part[0]) for part in gain_and_shift(program.tensors, node, 4)) == expected
