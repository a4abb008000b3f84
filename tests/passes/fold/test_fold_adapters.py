"""layer(x) + branch(x) ==> layer(x): PEFT's models and others' adapters give what they gave, from the base's own operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import pytest
import torch
from float_programs import BATCHES, captured, operators, sample, untouched
from fxpress_ir import Program, capture, verify
from fxpress_ir.errors import CaptureError
from fxpress_passes import Close, Context, FoldAdapters, Pass, PlaceQuantizers, QuantizeDyadic, RemoveNoops
from fxpress_passes.contract import difference
from fxpress_passes.fold.certificate import Certificate
from fxpress_passes.pipeline import Pipeline
from layered import Module, layer_of
from torch import Tensor, nn

RTOL = 5e-6
"""Of float32 on these sizes: a handful of roundings of sums of 50 terms, through five layers."""


class Small(nn.Module):
    """Embedding, a layer that is not square, a convolution and a head; tokens [batch, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.fc = nn.Embedding(11, 8), nn.Linear(8, 12)
        self.conv, self.out = nn.Conv2d(12, 6, 3, padding=1), nn.Linear(6, 4, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.fc(self.emb(tokens)))
        pixels = hidden.transpose(1, 2).unsqueeze(-1)
        return self.out(torch.tanh(self.conv(pixels)).squeeze(-1).transpose(1, 2))


def _peft() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft")


def _adapted(model: nn.Module, config: Any) -> nn.Module:
    """The model with an adapter of PEFT's whose numbers are all other than those that do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: nn.Module = _peft().get_peft_model(model, config).base_model.model
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if any(part in name for part in ("lora", "ia3", "miss", "lokr", "hada", "vera", "oft", "fourier")):
            parameter.data = parameter.data + torch.randn(parameter.shape, generator=generator) * 0.2
    return adapted.eval()


def _of_tokens(model: nn.Module) -> Program:
    return capture(model.eval(), (torch.zeros(2, 5, dtype=torch.long),), dynamic_shapes=({0: torch.export.Dim("batch")},))


METHODS: dict[str, Callable[[Any], Any]] = {
    "lora": lambda peft: peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, target_modules=["fc", "emb", "conv", "out"]),
    "dora": lambda peft: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["fc", "emb", "conv"]),
    "adalora": lambda peft: peft.AdaLoraConfig(init_r=4, target_r=2, lora_alpha=6, total_step=9, target_modules=["fc", "out"]),
    "ia3": lambda peft: peft.IA3Config(target_modules=["fc", "out", "conv"], feedforward_modules=["out"]),
    "miss": lambda peft: peft.MissConfig(r=4, target_modules=["fc", "out"]),
}
MORE: dict[str, Callable[[Any], Any]] = {
    "rslora with bias": lambda peft: peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, lora_bias=True, target_modules=["fc", "out"]),
    "lokr": lambda peft: peft.LoKrConfig(r=2, alpha=3, target_modules=["fc", "conv"]),
    "loha": lambda peft: peft.LoHaConfig(r=2, alpha=3, target_modules=["fc", "conv"]),
    "vera": lambda peft: peft.VeraConfig(r=2, target_modules=["fc"]),
    "oft": lambda peft: peft.OFTConfig(oft_block_size=4, target_modules=["fc"]),
    "boft": lambda peft: peft.BOFTConfig(boft_block_size=4, target_modules=["fc"]),
    "fourier": lambda peft: peft.FourierFTConfig(n_frequency=5, target_modules=["fc"]),
}


@pytest.mark.parametrize(
    "method", [*METHODS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)  # slow: each is a capture more, by a form that the others have too
def test_a_model_of_pefts_becomes_its_base(method: str) -> None:
    model = _adapted(Small(), (METHODS | MORE)[method](_peft()))
    program, context = _of_tokens(model), Context()
    with untouched(program):
        folded = FoldAdapters().apply(program, context)
    verify(folded)
    assert context.refusals == []
    assert _names(folded) == _names(_small())
    for batch in BATCHES:
        tokens = torch.randint(0, 11, (batch, 5), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert difference((model(tokens),), folded.run(tokens)).relative < RTOL
    assert all(isinstance(fact, Certificate) and fact.residual < RTOL and fact.inputs == "random" for fact in context.notes)
    assert FoldAdapters().apply(folded, Context()) is folded


def test_a_weight_that_is_read_past_the_graph_is_told_at_capture() -> None:
    """PEFT's first form of MiSS (Bat) reads ``weight.data``, whose value export loses; folders fold it."""
    model = _adapted(Small(), _peft().MissConfig(r=4, target_modules=["fc"], init_weights="bat"))
    with pytest.raises(CaptureError, match=r"forward reads the \.data of a parameter; read the parameter itself"):
        _of_tokens(model)


@lru_cache
def _small() -> Program:
    return _of_tokens(Small())


def _names(program: Program) -> list[str]:
    return operators(RemoveNoops().apply(program, Context()))


class Logits(nn.Module):
    """A model of transformers' as a function of tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.model(tokens, attention_mask=torch.ones_like(tokens), use_cache=False)[0]
        return result


def _gpt2(transformers: Any, layers: int) -> nn.Module:
    special = {"bos_token_id": None, "eos_token_id": None}
    sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": layers, "n_head": 2, "n_positions": 32}
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **special))
    return model


def _bert(transformers: Any, layers: int) -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 48}
    model: nn.Module = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, max_position_embeddings=32))
    return model


def _llama(transformers: Any, layers: int) -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 48}
    grouped = {"num_key_value_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": True}
    model: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **grouped))
    return model


MODELS: dict[str, tuple[Callable[[Any, int], nn.Module], list[str]]] = {
    "gpt2": (_gpt2, ["c_attn", "c_proj", "c_fc", "wte"]),
    "bert": (_bert, ["query", "key", "value", "dense"]),
    "llama": (_llama, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj", "embed_tokens"]),
}


HEAVY = [("gpt2", 2, True), *((name, 2, dora) for name in ("bert", "llama") for dora in (False, True))]


@pytest.mark.parametrize(
    ("name", "layers", "dora"), [("gpt2", 1, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in HEAVY)]
)  # slow: two captures of a transformer each
def test_a_transformer_of_pefts_becomes_its_base(name: str, layers: int, dora: bool) -> None:
    make, targets = MODELS[name]
    transformers, peft = pytest.importorskip("transformers"), _peft()
    torch.manual_seed(0)
    adapted = _adapted(make(transformers, layers), peft.LoraConfig(r=3, lora_alpha=5, use_dora=dora, target_modules=targets))
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", min=2, max=32)},)
    example = torch.zeros(2, 8, dtype=torch.long)
    program, context = capture(Logits(adapted), (example,), dynamic_shapes=shapes), Context()
    folded = FoldAdapters().apply(program, context)
    assert context.refusals == []
    for batch, length in ((1, 4), (3, 7)):
        tokens = torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert difference((Logits(adapted)(tokens),), folded.run(tokens)).relative < RTOL
    if layers > 1:
        base, base_context = capture(Logits(make(transformers, layers)), (example,), dynamic_shapes=shapes), Context()
        assert FoldAdapters().apply(base, base_context) is base
        assert base_context.refusals == []
        assert len(_names(folded)) <= len(_names(base)), "a linear layer stays where a product between two views was"


def test_an_adapted_model_is_quantized_as_one_that_never_was(tmp_path: Path) -> None:
    """LoRA ==> base ==> integers, the same bits in PyTorch, NumPy and ONNX Runtime."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    program = captured(_adapted(model, _peft().LoraConfig(r=2, lora_alpha=5, target_modules=["0", "3"])), 1, 3, 4, 4)
    batches = [sample(program, 8, seed) for seed in range(4)]
    result = Pipeline([FoldAdapters(), QuantizeDyadic()]).run(program, calibration=batches)
    integer, inputs = result.program, sample(program, 3, seed=9)
    assert integer.stage == "integer"
    assert operators(integer).count("fxp.linear") == operators(integer).count("fxp.conv2d") == 1
    (step,) = (step for step in result.report.steps if step.name == "fold-adapters")
    assert all(str(fact) in str(result.report) for fact in step.notes)
    assert len(step.notes) == 2
    expected = integer.run(*inputs)[0].numpy()
    for target in ("reference", "onnx:int"):
        (found,) = fx.lower(integer, target, out=tmp_path / target.replace(":", "-")).run(*(value.numpy() for value in inputs))
        assert np.array_equal(found, expected)


def test_simulated_programs_are_left_to_folders() -> None:
    program = captured(Module(lambda m, x: m.w(x) + m.b(m.a(x)), w=layer_of(16, 24), a=layer_of(16, 3), b=layer_of(3, 24)), 1, 16)
    simulated = Pipeline([PlaceQuantizers()]).run(program, calibration=[sample(program, 4)]).program
    assert FoldAdapters().apply(simulated, Context()) is simulated


def test_options_read_as_they_print() -> None:
    item = FoldAdapters(path=("one", "two"), weights=(0.5, 0.25), combination="linear")
    assert Pipeline.parse(str(item)).passes == (item,)
    assert FoldAdapters(path="one") == FoldAdapters(path=("one",))  # type: ignore[arg-type]
    assert isinstance(FoldAdapters.promise, Close)
    assert isinstance(item, Pass)
