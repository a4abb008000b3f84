"""Float programs: PyTorch's numbers within 1e-4 of the largest, at any batch, from one build; what is read otherwise is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.artifact import load, lower
from fxpress_backends.contract import Runner, Target
from fxpress_backends.tvm import TVM
from fxpress_ir import Program, capture
from fxpress_ir.errors import BackendError
from torch import Tensor, nn
from torch.nn import functional

Load = Callable[[Program, Target, Path], Runner]
BATCH = torch.export.Dim("batch")


class _Net(nn.Module):
    """A head of probabilities, a view by the symbolic batch, and the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pooled = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(pooled).softmax(-1), pooled.view(pooled.shape[0] * 2, 4), x


class _Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.queries(x) @ x.transpose(1, 2)).softmax(-1)
        return functional.gelu(self.norm(weights @ x))[:, -1]


class _ReadOtherwise(nn.Module):
    """What TVM's importer would take for something else, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.norm = nn.Embedding(9, 6), nn.InstanceNorm2d(6, affine=True)

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        x = self.rows(ids)
        image = x.transpose(1, 2).unflatten(2, (2, 3))
        last = torch.tensor([[0], [-1]]), torch.tensor([-2, 1])
        return (
            torch.add(x, x * x, alpha=0.3) - torch.rsub(x, x * x, alpha=2),
            functional.selu(image),
            functional.interpolate(self.norm(image), size=(5, 4)),
            functional.group_norm(image, 2),
            x[:, -1] + x[:, torch.tensor([0, -1])].sum(1),
            x[:, last[0], last[1]],
            (ids * 0.5 + ids / 3).logsumexp(-1),
            (ids > 3).cumsum(-1),
            x.amax(1) - x.amin((1, 2), keepdim=True)[:, 0],
            x[..., 2:].argmax(-1),
        )


def _captured(model: nn.Module, *inputs: Tensor, dims: Mapping[int, Any] | None = None) -> Program:
    torch.manual_seed(0)
    shapes = tuple(dict(dims or {0: BATCH}) for _ in inputs)
    return capture(model.eval(), inputs, dynamic_shapes=shapes)


def _close(results: Sequence[np.ndarray], expected: Sequence[Tensor]) -> None:
    """Sums of float32 in another order."""
    for result, wanted in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (wanted.numpy().dtype, tuple(wanted.shape))
        np.testing.assert_allclose(result, wanted.numpy(), rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["tvm:x86-64", "tvm:native"])
def test_a_convolutional_net_at_two_batches(name: str, targets: Mapping[str, Target], loaded: Load, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = _captured(_Net(), torch.zeros(2, 3, 8, 8))
    runner = loaded(program, targets[name], tmp_path)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        _close(runner.run([x.numpy()]), program.run(x))


def test_two_symbolic_dimensions(targets: Mapping[str, Target], loaded: Load, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = _captured(_Attending(), torch.zeros(2, 7, 16), dims={0: BATCH, 1: torch.export.Dim("tokens", min=2, max=64)})
    runner = loaded(program, targets["tvm:x86-64"], tmp_path)
    for batch, tokens in ((1, 2), (3, 11)):
        x = torch.randn(batch, tokens, 16, generator=torch.Generator().manual_seed(tokens))
        _close(runner.run([x.numpy()]), program.run(x))


def test_operators_that_tvm_reads_otherwise(targets: Mapping[str, Target], loaded: Load, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = _captured(_ReadOtherwise(), torch.zeros(2, 6, dtype=torch.int64))
    runner = loaded(program, targets["tvm:x86-64"], tmp_path)
    for batch in (1, 4):
        ids = torch.randint(0, 9, (batch, 6), generator=torch.Generator().manual_seed(batch))
        _close(runner.run([ids.numpy()]), program.run(ids))


def test_ids_beyond_the_table_read_no_other_memory(targets: Mapping[str, Target], loaded: Load, tmp_path: Path) -> None:
    program = _captured(nn.Embedding(9, 4), torch.zeros(2, 3, dtype=torch.int64))
    runner = loaded(program, targets["tvm:x86-64"], tmp_path)
    (result,) = runner.run([np.array([[0, 9, -1]])])
    np.testing.assert_array_equal(result, program.run(torch.tensor([[0, 0, 8]]))[0].numpy())


def test_an_artifact_carries_vectors_and_the_same_bytes(tmp_path: Path) -> None:
    program = _captured(_Net(), torch.zeros(2, 3, 8, 8))
    artifacts = [lower(program, "tvm:x86-64", tmp_path / name) for name in ("first", "second")]
    assert artifacts[0].manifest["files"] == artifacts[1].manifest["files"]
    assert artifacts[0].manifest["conformance"]["exact"] is False
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    _close(load(tmp_path / "first").run(x), program.run(x))


class _Lacking(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.special.bessel_j0(x + 1), torch.exp2(x)


class _Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.half() * 2).float()


class _Padded(nn.Module):
    """The importer's own code for it fails."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, (1, 1, 1, 1), mode="circular") * 2


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        (_Lacking(), ["special_bessel_j0: TVM's importer has no aten.special_bessel_j0", "exp2: TVM's importer has no aten.exp2"]),
        (_Half(), ["to: type torch.float16 in a float operator", "mul: type torch.float16 in a float operator"]),
        (_Padded(), ["pad: TVM's importer fails on aten.empty.memory_format"]),
    ],
    ids=["lacking", "half", "failing"],
)
def test_what_is_refused_before_any_work(model: nn.Module, refused: list[str], targets: Mapping[str, Target]) -> None:
    found = TVM.legalize(_captured(model, torch.zeros(2, 3, 4, 4)), targets["tvm:x86-64"])
    for refusal, start in zip(found, refused, strict=True):
        assert f"{refusal.node}: {refusal.reason}".startswith(start)
        assert refusal.way_on


class _Misread(nn.Module):
    """The importer overlooks the divisor."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 2, divisor_override=3)


class _Broadcast(nn.Module):
    """TVM cannot tell that a slice of a symbolic batch has one image."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:1] + x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Misread(), r"avg_pool2d: TVM computes something else than PyTorch: 100.0% of its values differ, .*; lower it to another target"),
        (_Broadcast(), r"TVM cannot compile main: .*; lower it to another target"),
    ],
    ids=["misread", "symbolic"],
)
def test_what_comes_out_wrong_is_not_written(model: nn.Module, message: str, targets: Mapping[str, Target], tmp_path: Path) -> None:
    program = _captured(model, torch.zeros(2, 3, 4, 4))
    assert TVM.legalize(program, targets["tvm:x86-64"]) == ()
    with pytest.raises(BackendError, match=message):
        TVM.lower(program, targets["tvm:x86-64"], tmp_path)
    assert not list(tmp_path.iterdir())
