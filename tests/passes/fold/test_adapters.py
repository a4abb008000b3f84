"""Folding a folder gives what PEFT's own forward gives, kind by kind; every kind of the newest PEFT folds or is refused.

The yardstick is PEFT's forward. Its merge_and_unload differs from that where weights are tied (LoRA, DoRA, OFT and HiRA on an embedding
or a tied head change both uses; here only the adapted one changes) and is not there for BEFT on layers without a bias.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from fxpress_ir import Program
from fxpress_ir.digest import digest
from fxpress_ir.errors import PassError
from fxpress_passes import ComposeLinear, Context
from fxpress_passes.fold.adapters import fold_folder
from fxpress_passes.fold.adapters.kinds import KINDS
from fxpress_passes.fold.adapters.refused import REFUSED
from fxpress_passes.fold.certificate import Certificate
from fxpress_passes.pipeline import Pipeline
from peft_cases import CASES, LLAMA, MORE, RANK, config
from peft_folders import IDS, adapted, base, peft_model, program, relative, run
from safetensors.torch import load_file, save_file

RTOL = 2e-5
"""PEFT adds its branch in float32, a fold rounds each weight once: some 2e-7 a layer, through all layers."""
_FORMED_IN_FLOAT32 = 2e-4
"""PEFT decomposes the base in float32, which moves singular vectors by the rounding over the gaps between singular values."""

_EVERY = [*CASES, *(pytest.param(label, marks=pytest.mark.slow) for label in MORE)]


def calls(folded: Program) -> list[Any]:
    return [node.target for node in folded.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("label", _EVERY)
def test_a_folder_folds_to_what_peft_runs(label: str, tmp_path: Path) -> None:
    name = (CASES | MORE)[label][0]
    wanted, before, context = adapted(name, config(label), tmp_path), program(name), Context()
    folded = fold_folder(before, [tmp_path], context)
    rtol = _FORMED_IN_FLOAT32 if "pissa" in label else RTOL
    assert relative(before.run(IDS)[0], wanted) > 100 * rtol or relative(before.run(IDS)[0], wanted) > 2e-3
    assert relative(folded.run(IDS)[0], wanted) < rtol
    assert relative(folded.run(IDS[:1])[0], wanted[:1]) < 2 * rtol
    assert calls(folded) == calls(before)
    # One rounding to float32 a weight: half a step, relative to the largest result of the layer.
    assert all(note.residual < 1e-6 for note in context.notes if isinstance(note, Certificate))
    assert bool(context.notes)


def test_every_kind_of_peft_folds_or_is_refused() -> None:
    kinds = {kind.value for kind in peft.PeftType}
    assert kinds <= KINDS.keys() | REFUSED.keys()
    assert not KINDS.keys() & REFUSED.keys()
    tested = {config(label).peft_type.value for label in CASES}
    assert kinds & KINDS.keys() == tested
    assert all(reason and way_on for reason, way_on in REFUSED.values())


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_kinds_that_are_no_change_of_weights_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    save_file({"prompt_embeddings": torch.ones(2, 32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(PassError, match=kind):
        fold_folder(program("llama"), [tmp_path], Context())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_lora_weights": "orthogonal"}, None),
        ({"init_lora_weights": "corda"}, "neither the original nor determined by the folder"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "neither the original"),
        ({"alora_invocation_tokens": [1, 2]}, "from the invocation tokens on"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "repeats layers"),
        ({"r": 4}, "the config says rank 4"),
        ({"peft_type": "LORA2"}, "unknown kind LORA2"),
        ({"peft_type": None}, "names no peft_type"),
        ({"base_digests": {"model.layers.0.self_attn.q_proj.weight": "0"}}, "the base has other values in"),
    ],
)
def test_options_that_the_folder_does_not_determine_are_refused(options: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    adapted("llama", config("lora"), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    if message is None:
        fold_folder(program("llama"), [tmp_path], Context())
        return
    with pytest.raises(PassError, match=message):
        fold_folder(program("llama"), [tmp_path], Context())


def test_a_folder_may_name_the_values_of_its_base(tmp_path: Path) -> None:
    adapted("llama", config("lora"), tmp_path)
    path, name = tmp_path / "adapter_config.json", "model.layers.0.self_attn.q_proj.weight"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_digests": {name: digest(program("llama").tensors[f"net.{name}"])}}))
    fold_folder(program("llama"), [tmp_path], Context())


@pytest.mark.parametrize(
    ("name", "kind", "options", "message"),
    [
        ("vision", "Lora", {"r": 4, "target_modules": ["apart"]}, "without the base's groups and dilation"),
        ("vision", "OFT", {"r": 3, "oft_block_size": 0, "target_modules": ["plane"]}, "rotates a convolution's overlapping windows"),
        ("special", "Lora", {"target_modules": ["attention"]}, "twice its change"),
        ("llama", "Vera", {"r": 4, "save_projection": False} | LLAMA, "save_projection=True"),
        ("llama", "UniLora", {"r": 2, "theta_d_length": 20} | LLAMA, "save_indices=True"),
        ("llama", "TinyLora", {"r": 2} | LLAMA, "4 vectors are shared by order of the modules"),
        ("llama", "WaveFT", {"n_frequency": 9, "wavelet_family": "db2"} | LLAMA, "wavelets db2 have no formula"),
        ("llama", "Pvera", {"r": 4, "sample_at_inference": True} | LLAMA, "draws its values in every run"),
        ("llama", "Psoft", {"r": 2} | LLAMA, "PSOFT"),
    ],
)
def test_real_folders_without_a_formula_are_refused(name: str, kind: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    adapted(name, getattr(peft, f"{kind}Config")(**options), tmp_path)
    with pytest.raises(PassError, match=message):
        fold_folder(program(name), [tmp_path], Context())


def test_bone_is_what_miss_was_called(tmp_path: Path) -> None:
    wanted = adapted("llama", config("miss"), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({key.replace("miss_block", "bone_block"): value for key, value in tensors.items()}, tmp_path / "adapter_model.safetensors")
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"MISS"', '"BONE"'))
    assert relative(fold_folder(program("llama"), [tmp_path], Context()).run(IDS)[0], wanted) < RTOL


def test_a_pickle_is_refused_with_the_way_on(tmp_path: Path) -> None:
    adapted("llama", config("lora"), tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(PassError, match=r"is a pickle, .*safe_serialization=True"):
        fold_folder(program("llama"), [tmp_path], Context())


@pytest.mark.parametrize("cut", [0, 100, 3000])
def test_damaged_folders_are_refused(cut: int, tmp_path: Path) -> None:
    adapted("llama", config("lora"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(PassError, match="cannot be read"):
        fold_folder(program("llama"), [tmp_path], Context())


def test_another_base_is_refused_with_the_unmatched_modules(tmp_path: Path) -> None:
    adapted("llama", config("lora"), tmp_path)
    with pytest.raises(PassError, match=r"the program has no model\.layers\.0\.mlp\.down_proj, .* \(4 of 4 modules\)"):
        fold_folder(program("bert"), [tmp_path], Context())
    tensors = {key: value[:, :-1] if "lora_A" in key else value for key, value in load_file(tmp_path / "adapter_model.safetensors").items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(PassError, match=r"the adapter is for a weight \[32, 47\], the base's is \[32, 48\]"):
        fold_folder(program("llama"), [tmp_path], Context())


def test_modules_that_the_graph_does_not_compute_are_left_out_by_name(tmp_path: Path) -> None:
    wanted = adapted("llama", config("lora"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    extra = {f"base_model.model.extra.dense.lora_{end}.weight": torch.ones(1, 1) for end in "AB"}
    save_file(load_file(path) | extra, path)
    with pytest.raises(PassError, match=r"has no extra\.dense"):
        fold_folder(program("llama"), [tmp_path], Context())
    folded = fold_folder(program("llama"), [tmp_path], Context(), ignore=["extra.dense"])
    assert relative(folded.run(IDS)[0], wanted) < RTOL


def _two(tmp_path: Path, **options: Any) -> tuple[list[Path], list[torch.Tensor]]:
    paths = [tmp_path / name for name in "ab"]
    chosen = [RANK | LLAMA | options, {"r": 2, "lora_alpha": 3} | LLAMA | options]
    outputs = [adapted("llama", peft.LoraConfig(**one), path, seed=at) for at, (one, path) in enumerate(zip(chosen, paths, strict=True))]
    return paths, outputs


@pytest.mark.parametrize("combination", ["linear", "cat"])
@pytest.mark.parametrize("rslora", [False, True])
def test_several_adapters_are_the_sum_of_their_changes(combination: str, rslora: bool, tmp_path: Path) -> None:
    """Against the sum by hand; PEFT's own add_weighted_adapter(combination_type="cat") misses the rank-stabilised scale."""
    paths, _ = _two(tmp_path, use_rslora=rslora)
    folded = fold_folder(program("llama"), paths, Context(), weights=[0.7, -0.3], combination=combination)
    weight = "net.model.layers.1.mlp.down_proj.weight"
    wanted = program("llama").tensors[weight].double()
    for path, share, rank, alpha in zip(paths, (0.7, -0.3), (3, 2), (5, 3), strict=True):
        tensors = load_file(path / "adapter_model.safetensors")
        a, b = (tensors[f"base_model.model.model.layers.1.mlp.down_proj.lora_{end}.weight"].double() for end in "AB")
        wanted = wanted + share * alpha / (rank**0.5 if rslora else rank) * b @ a
    assert torch.equal(folded.tensors[weight], wanted.float())


def test_biases_of_factors_are_summed_with_their_weights(tmp_path: Path) -> None:
    """PEFT's cat drops them (huggingface/peft#3761): here they take the weight and the scale of their adapter."""
    paths = [tmp_path / name for name in "ab"]
    for at, path in enumerate(paths):
        adapted("bert", config("lora-bias"), path, seed=at)
    folded = fold_folder(program("bert"), paths, Context(), weights=[0.5, 2.0])
    name = "net.bert.encoder.layer.1.attention.self.query.bias"
    key = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_B.bias"
    biases = [load_file(path / "adapter_model.safetensors")[key].double() for path in paths]
    wanted = program("bert").tensors[name].double() + 5 / 3 * (0.5 * biases[0] + 2.0 * biases[1])
    torch.testing.assert_close(folded.tensors[name], wanted.float(), rtol=0, atol=1e-6)


def test_a_graph_that_was_rewritten_before_still_takes_the_fold(tmp_path: Path) -> None:
    wanted = adapted("gpt2", config("lora-of-conv1d"), tmp_path)
    composed = ComposeLinear().apply(program("gpt2"), Context())
    assert relative(fold_folder(composed, [tmp_path], Context()).run(IDS)[0], wanted) < RTOL


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("lora_A.weight", lambda tensor: tensor * float("nan"), "the folded weight is not finite"),
        ("lora_C.weight", lambda tensor: tensor + 1, r"no place for lora_C\.weight"),
        ("base_layer.lora_A.weight", lambda tensor: tensor + 1, "stands for several tensors"),
    ],
)
def test_tensors_that_have_no_place_are_refused(name: str, change: Any, message: str, tmp_path: Path) -> None:
    adapted("llama", config("lora"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors, stem = load_file(path), "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(tensors | {f"{stem}.{name}": change(tensors[f"{stem}.lora_A.weight"])}, path)
    with pytest.raises(PassError, match=message):
        fold_folder(program("llama"), [tmp_path], Context())


def test_svd_is_what_peft_gives(tmp_path: Path) -> None:
    paths, _ = _two(tmp_path)
    model = peft_model("llama", peft.LoraConfig(**(RANK | LLAMA)))
    for name, path in zip("ab", paths, strict=True):
        model.load_adapter(str(path), name)
    model.add_weighted_adapter(["a", "b"], [0.7, 0.4], "both", combination_type="svd", svd_rank=2)
    model.set_adapter("both")
    folded = fold_folder(program("llama"), paths, Context(), weights=[0.7, 0.4], combination="svd", rank=2)
    assert relative(folded.run(IDS)[0], run(model)) < _FORMED_IN_FLOAT32  # PEFT's decomposition is in float32


@pytest.mark.parametrize("label", ["dora", "oft", "ia3", "lora-all-biases-and-saved"])
def test_what_is_no_sum_takes_no_weight_and_no_second_adapter(label: str, tmp_path: Path) -> None:
    name = CASES[label][0]
    adapted(name, config(label), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folders, weights in (([tmp_path / "a"], [0.5]), ([tmp_path / "a", tmp_path / "b"], [1.0, 1.0])):
        with pytest.raises(PassError, match=r"no exact meaning|no weight and no second adapter"):
            fold_folder(program(name), folders, Context(), weights=weights)


def test_wrong_counts_and_combinations_are_refused(tmp_path: Path) -> None:
    adapted("llama", config("lora"), tmp_path)
    with pytest.raises(PassError, match="2 weights for 1 folders"):
        fold_folder(program("llama"), [tmp_path], Context(), weights=[1, 2])
    with pytest.raises(PassError, match="one of linear, cat, svd"):
        fold_folder(program("llama"), [tmp_path], Context(), combination="ties")


def test_a_pipeline_takes_a_folder_and_reports_its_certificates(tmp_path: Path) -> None:
    wanted = adapted("llama", config("lora"), tmp_path)
    result = Pipeline.parse(f"fold-adapters{{path={json.dumps([str(tmp_path)])}}}").run(program("llama"), calibration=[(IDS,)])
    (step,) = result.report.steps
    assert step.fired
    assert step.promise_held
    assert len(step.notes) == 4
    assert relative(result.program.run(IDS)[0], wanted) < RTOL
    with pytest.raises(PassError, match="cannot be read"):
        Pipeline.parse('fold-adapters{path=["nowhere"]}').run(program("llama"))


def test_the_base_is_not_changed(tmp_path: Path) -> None:
    before = program("llama")
    hashed = before.hash
    adapted("llama", config("lora-tokens"), tmp_path)
    fold_folder(before, [tmp_path], Context())
    assert before.hash == hashed
    assert any(tensor is base("llama").get_input_embeddings().weight for tensor in before.tensors.values())
