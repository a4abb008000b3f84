"""Adapters in our own vocabulary against the branches that were trained, masks and grids that are kept, quantised bases."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fxpress_ir import Program, capture
from fxpress_ir.errors import PassError
from fxpress_passes import Context
from fxpress_passes.fold.adapters import fold_folder
from fxpress_passes.fold.adapters.kinds import KINDS
from fxpress_passes.fold.adapters.kinds.compeft import CODINGS, decode, encode
from fxpress_passes.fold.adapters.layer import Layer
from fxpress_passes.fold.adapters.proof import Requantized
from fxpress_passes.pipeline import Pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

RTOL = 1e-5
"""Float32 against float32: a fold rounds each weight once, the branch each of its results."""


class Block(nn.Module):
    """A convolution, a norm, and linear layers with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.fc = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.norm(torch.relu(self.fc(self.conv(x)))))


@lru_cache
def block() -> Block:
    torch.manual_seed(3)
    model = Block().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@lru_cache
def program() -> Program:
    return capture(block(), (_x(),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})


def _x() -> Tensor:
    return torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(1))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def written(folder: Path, kind: str, tensors: dict[str, Tensor], **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind, **options}))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def ran(replaced: Callable[[Tensor], Tensor], module: str = "fc") -> Tensor:
    """The block with one of its modules' results replaced: what runs with the adapter as a branch."""
    handle = getattr(block(), module).register_forward_hook(lambda _, args, result: replaced(args[0]))
    with torch.no_grad():
        try:
            return block()(_x())
        finally:
            handle.remove()


def folded(folder: Path, *more: Path, context: Context | None = None, **options: Any) -> Tensor:
    result = fold_folder(program(), [folder, *more], context or Context(), **options)
    assert len(result.graph.nodes) - len(program().graph.nodes) in (0, 1)  # one where a layer without a bias takes one
    return result.run(_x())[0]


def check(found: Tensor, wanted: Tensor) -> None:
    before = program().run(_x())[0]
    assert (before - wanted).abs().max() > 1e-2 * wanted.abs().max()
    torch.testing.assert_close(found, wanted, rtol=RTOL, atol=RTOL * float(wanted.abs().max()))


def _affine(x: Tensor, module: nn.Linear | None = None) -> Tensor:
    layer = module or block().fc
    return functional.linear(x, layer.weight, layer.bias)


def test_hydra_folds_its_two_branches_and_four_biases(tmp_path: Path) -> None:
    shapes = {"parallel_A": (2, 6), "parallel_B": (8, 2), "sequential_A": (3, 8), "sequential_B": (8, 3)}
    parts = {name: (_random(*shape), _random(shape[0], seed=9)) for name, shape in shapes.items()}
    tensors = {f"fc.hydra_{name}.{end}": value for name, pair in parts.items() for end, value in zip(("weight", "bias"), pair, strict=True)}
    path = written(tmp_path, "HYDRA", tensors, scale=0.5)

    def wanted(x: Tensor) -> Tensor:
        y = _affine(x)
        for name, start in (("parallel", x), ("sequential", y)):
            (a, first), (b, last) = parts[f"{name}_A"], parts[f"{name}_B"]
            y = y + 0.5 * functional.linear(functional.linear(start, a, first), b, last)
        return y

    check(folded(path), ran(wanted))


def test_a_bias_is_made_where_hydra_needs_one(tmp_path: Path) -> None:
    a, b, first = _random(2, 8), _random(4, 2), _random(2)
    tensors = {"up.hydra_parallel_A.weight": a, "up.hydra_parallel_A.bias": first, "up.hydra_parallel_B.weight": b}
    wanted = ran(lambda x: _affine(x, block().up) + functional.linear(functional.linear(x, a, first), b), "up")
    check(folded(written(tmp_path, "HYDRA", tensors)), wanted)


def _loldu(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    p, lower, upper = torch.linalg.lu(block().fc.weight.detach().double())
    diagonal = upper.diagonal()[:rank]
    return p @ lower[:, :rank], diagonal, upper[:rank] / diagonal.reshape(-1, 1)


def test_loldu_is_the_base_before_training_and_its_formula_after(tmp_path: Path) -> None:
    left, diagonal, right = _loldu(3)
    still = written(tmp_path / "still", "LOLDU", {"fc.loldu_z": diagonal, "fc.loldu_sigma": torch.ones(1)}, sigma=1.0)
    same = fold_folder(program(), [still], Context())
    torch.testing.assert_close(same.tensors["fc.weight"], block().fc.weight.detach(), rtol=0, atol=1e-6)
    z = diagonal + 1.0
    moved = written(tmp_path / "moved", "LOLDU", {"fc.loldu_z": z, "fc.loldu_sigma": torch.full((1,), 0.5)}, sigma=1.0)
    delta = ((left * (0.5 * z - diagonal)) @ right).float()
    check(folded(moved), ran(lambda x: _affine(x) + functional.linear(x, delta)))


def test_loldu_without_pivots_is_refused() -> None:
    weight = torch.zeros(4, 3, dtype=torch.float64)
    layer = Layer("fc", "linear", weight, None, {"loldu_z": torch.ones(2), "loldu_sigma": torch.ones(1)}, {}, {}, "folder")
    with pytest.raises(PassError, match="no L D U decomposition with 2 pivots"):
        KINDS["LOLDU"].fold(layer)


def test_increlora_leaves_out_its_reserves(tmp_path: Path) -> None:
    a, e, b = ([_random(*shape, seed=10 * at) for at in range(4)] for shape in ((1, 6), (1, 1), (8, 1)))
    tensors = {f"fc.increlora_{name}.{at}": value for name, values in zip("AEB", (a, e, b), strict=True) for at, value in enumerate(values)}
    path = written(tmp_path, "INCRELORA", tensors, lora_alpha=4, reserve=1)
    delta = sum(b[at] * e[at] @ a[at] for at in range(3)) * 4 / (3 + 1e-5)
    check(folded(path), ran(lambda x: _affine(x) + functional.linear(x, delta)))


def test_kronecker_products_run_lazily_are_the_fold(tmp_path: Path) -> None:
    a, b = _random(4, 2), _random(2, 3)
    path = written(tmp_path, "DIFFUSEKRONA", {"fc.krona_A": a, "fc.krona_B": b}, scale=0.7)
    check(
        folded(path), ran(lambda x: _affine(x) + 0.7 * torch.einsum("ai,bj,...ij->...ab", a, b, x.reshape(*x.shape[:-1], 2, 3)).flatten(-2))
    )


def test_orthogonal_adaptations_do_not_meet(tmp_path: Path) -> None:
    basis = torch.linalg.qr(_random(6, 6))[0]
    a, b = (_random(8, 2), _random(8, 2, seed=5)), (basis[:, :2], basis[:, 2:4])
    paths = [written(tmp_path / str(at), "ORTHOGONAL_ADAPTATION", {"fc.oa_A": a[at], "fc.oa_B": b[at]}) for at in (0, 1)]
    check(
        folded(*paths), ran(lambda x: _affine(x) + sum(functional.linear(functional.linear(x, v.T), u) for u, v in zip(a, b, strict=True)))
    )
    there, back = (fold_folder(program(), order, Context()).tensors["fc.weight"] for order in (paths, paths[::-1]))
    torch.testing.assert_close(there, back, rtol=0, atol=1e-6)
    one = fold_folder(program(), paths[:1], Context()).tensors["fc.weight"]
    torch.testing.assert_close(there @ basis[:, :2], one @ basis[:, :2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["SPIEL", "LT_SFT"])
def test_sparse_changes_are_added_where_they_say(kind: str, tmp_path: Path) -> None:
    indices, values = torch.tensor([0, 7, 40]), torch.tensor([1.0, -2.0, 3.0])
    names = ("spiel_indices", "spiel_deltas") if kind == "SPIEL" else ("lt_sft_weight_indices", "lt_sft_weight_values")
    path = written(tmp_path, kind, dict(zip((f"fc.{name}" for name in names), (indices, values), strict=True)))
    delta = torch.zeros(48).index_put((indices,), values).reshape(8, 6)
    check(folded(path), ran(lambda x: _affine(x) + functional.linear(x, delta)))
    for broken, message in ((torch.tensor([0, 7, 7]), "an index stands twice"), (torch.tensor([0, 7, 48]), "outside of the 48 elements")):
        written(tmp_path, kind, dict(zip((f"fc.{name}" for name in names), (broken, values), strict=True)))
        with pytest.raises(PassError, match=message):
            folded(path)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.floats(0.002, 1.0), st.sampled_from(CODINGS), st.integers(0, 10**6))
def test_compeft_is_coded_without_loss(size: int, density: float, coding: str, seed: int) -> None:
    tau = torch.randn(size + 1, generator=torch.Generator().manual_seed(seed))
    kept = max(1, round(density * tau.numel()))
    scale = tau.double().std()
    wanted = torch.zeros(tau.numel(), dtype=torch.float64)
    places = tau.double().abs().topk(kept).indices
    wanted[places] = tau.double()[places].sign() * scale
    stored = encode(tau, density, coding=coding)
    found = decode(*(stored[f"compeft_{name}"] for name in ("code", "signs", "scale", "count")))
    assert torch.equal(found.where(wanted != 0, 0), wanted.where(found != 0, 0))
    assert int((found != 0).sum()) == kept


def test_golomb_codes_are_smaller_than_masks_where_few_are_kept_and_fold(tmp_path: Path) -> None:
    tau = _random(8, 6)
    sizes = {coding: encode(_random(10_000), 0.01, coding=coding)["compeft_code"].numel() for coding in CODINGS}
    assert sizes["golomb"] < sizes["bitmask"] / 8
    path = written(tmp_path, "COMPEFT", {f"fc.{name}": value for name, value in encode(tau, 0.3).items()})
    delta = decode(*(encode(tau, 0.3)[f"compeft_{name}"] for name in ("code", "signs", "scale", "count"))).float().reshape(8, 6)
    check(folded(path), ran(lambda x: _affine(x) + functional.linear(x, delta)))


@pytest.mark.parametrize(("module", "count", "channels"), [("conv", 4, (4, 1)), ("fc", 8, (8,)), ("norm", 8, (8,)), ("up", 4, (4,))])
def test_ssf_folds_into_the_layer_before(module: str, count: int, channels: tuple[int, ...], tmp_path: Path) -> None:
    gain, shift = 1 + 0.5 * _random(count), _random(count, seed=4)
    path = written(tmp_path, "SSF", {f"{module}.ssf_scale": gain, f"{module}.ssf_shift": shift})
    forward = type(getattr(block(), module)).forward
    check(folded(path), ran(lambda x: forward(getattr(block(), module), x) * gain.reshape(channels) + shift.reshape(channels), module))
    written(tmp_path, "SSF", {f"{module}.ssf_scale": gain, f"{module}.ssf_shift": shift}, instance_adaptive=True)
    with pytest.raises(PassError, match="chosen for each input"):
        folded(path)


def _pruned() -> Program:
    edit = program().edit()
    weight = edit.tensors["fc.weight"].detach()
    edit.tensors["fc.weight"] = weight * (weight.abs() > weight.abs().median())
    return edit.finish()


@pytest.mark.parametrize("kind", ["MASKLORA", "SCALELORA", "PRUNELORA"])
def test_masks_of_a_pruned_base_are_kept(kind: str, tmp_path: Path) -> None:
    base, context, name = _pruned(), Context(), kind.lower()
    a, b = _random(2, 6), _random(8, 2)
    result = fold_folder(base, [written(tmp_path, kind, {f"fc.{name}_A": a, f"fc.{name}_B": b}, scale=0.5)], context)
    before, after = base.tensors["fc.weight"], result.tensors["fc.weight"]
    assert torch.equal(before == 0, after == 0)
    wanted = before * (b @ a) if kind == "SCALELORA" else (before + 0.5 * b @ a) * (before != 0)
    torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-6)
    assert context.notes[0].zeros == (24, 24)


def test_an_adapter_without_a_mask_says_how_many_zeros_it_costs(tmp_path: Path) -> None:
    context = Context()
    fold_folder(_pruned(), [written(tmp_path, "ALLORA", {"fc.allora_A": _random(2, 6), "fc.allora_B": _random(8, 2)})], context)
    assert "24 of its 24 zeros are lost" in str(context.notes[0])


def test_l4q_folds_into_the_grid_that_was_trained(tmp_path: Path) -> None:
    a, b, scale = 0.3 * _random(2, 6), 0.3 * _random(8, 2), 0.1 + _random(8).abs() / 10
    tensors = {"fc.l4q_A": a, "fc.l4q_B": b, "fc.l4q_scale": scale}
    after = fold_folder(program(), [written(tmp_path, "L4Q", tensors, bits=4, alpha=2.0)], Context()).tensors["fc.weight"]
    steps, base = scale.reshape(-1, 1), block().fc.weight.detach()
    trained = torch.round((base + 2.0 * (b @ a)) / steps).clamp(-8, 7) * steps
    assert torch.equal(after, trained)
    late = torch.round((torch.round(base / steps).clamp(-8, 7) * steps + 2.0 * (b @ a)) / steps).clamp(-8, 7) * steps
    assert not torch.equal(late, trained)  # an adapter of a quantised base, quantised again, is another function


def test_biases_alone_take_the_place_of_the_bases(tmp_path: Path) -> None:
    bias = _random(8)
    check(folded(written(tmp_path, "BITFIT", {"fc.bias": bias})), ran(lambda x: functional.linear(x, block().fc.weight, bias)))
    with pytest.raises(PassError, match=r"has no up\.bias"):
        folded(written(tmp_path / "up", "BITFIT", {"up.bias": _random(4)}))


@lru_cache
def _simulated() -> Program:
    return Pipeline.parse("place-quantizers").run(program(), calibration=[(_x(),)]).program


def test_a_quantised_base_is_quantised_again_and_says_what_that_costs(tmp_path: Path) -> None:
    path = written(tmp_path, "ALLORA", {"fc.allora_A": 0.1 * _random(2, 6), "fc.allora_B": 0.1 * _random(8, 2)})
    before, context = _simulated(), Context()
    after = fold_folder(before, [path], context)
    assert after.stage == "simulated"
    (note,) = [note for note in context.notes if isinstance(note, Requantized)]
    assert 20 < note.decibels < 60
    difference = after.run(_x())[0] - folded(path)
    quantised = before.run(_x())[0] - program().run(_x())[0]
    assert difference.norm() < 4 * quantised.norm()


def test_a_fold_is_stored_in_the_bases_dtype(tmp_path: Path) -> None:
    edit, context = program().edit(), Context()
    edit.tensors = {name: tensor.detach().bfloat16() for name, tensor in edit.tensors.items()}
    half = Program(edit.graph, edit.tensors, program().inputs)
    a, b = _random(2, 6), _random(8, 2)
    after = fold_folder(half, [written(tmp_path, "ALLORA", {"fc.allora_A": a, "fc.allora_B": b})], context).tensors["fc.weight"]
    assert torch.equal(after, (edit.tensors["fc.weight"].double() + b.double() @ a.double()).bfloat16())
    assert 1e-4 < context.notes[0].residual < 1e-2


def test_integers_are_refused_with_the_way_on(tmp_path: Path) -> None:
    path = written(tmp_path, "ALLORA", {"fc.allora_A": _random(2, 6), "fc.allora_B": _random(8, 2)})
    whole = Pipeline.parse("to-integer").run(_simulated()).program
    with pytest.raises(PassError, match="holds integers; fold first, then quantise"):
        fold_folder(whole, [path], Context())
