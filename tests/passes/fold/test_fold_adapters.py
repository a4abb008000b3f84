"""layer(x) + branch(x) ==> layer(x): PEFT's models and others' adapters give what they gave, from the base's own operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import pytest
import torch
from float_programs import BATCHES, applied, captured, operators, refusals, sample, untouched
from fxpress_ir import Program, capture, verify
from fxpress_ir.errors import CaptureError
from fxpress_passes import Close, Context, FoldAdapters, Pass, PlaceQuantizers, QuantizeDyadic, RemoveNoops
from fxpress_passes.contract import difference
from fxpress_passes.fold.certificate import Certificate
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

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


class Module(nn.Module):
    """`body` of a module's parts and x; `parts` are modules and tensors by name."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2


def _linear(inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.weight.data = _random(outputs, inputs, seed=seed)
    if bias:
        layer.bias.data = _random(outputs, seed=seed + 1)
    return layer


def _pruned() -> Tensor:
    return _random(12, 8).where(_random(12, 8, seed=5) > 0, 0.0)


def _hydra(m: Any, x: Tensor) -> Tensor:
    y = m.w(x)
    return torch.tanh(y + 0.7 * m.bp(m.ap(x)) + 0.3 * m.bs(m.a_s(y)))


def _bat(m: Any, x: Tensor) -> Tensor:
    blocks = m.w.reshape(3, 4, 2, 4).permute(2, 0, 1, 3)
    return torch.tanh(functional.linear(x, m.w + (blocks @ m.b + m.b).permute(1, 2, 0, 3).reshape(12, 8)))


def _l4q(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(functional.linear(x, 0.1 * torch.clamp(torch.round((m.w + 2 * m.b @ m.a) / 0.1), -8, 7)))


LINEAR = ["aten.linear", "aten.tanh"]
FORMS: dict[str, tuple[Callable[[], nn.Module], Sequence[int], list[str]]] = {
    "hydra: beside it and behind it, four biases": (
        lambda: Module(_hydra, w=_linear(8, 12), ap=_linear(8, 3), bp=_linear(3, 12), a_s=_linear(12, 3), bs=_linear(3, 12)),
        (1, 5, 8),
        LINEAR,
    ),
    "kronecker product, factor by factor": (
        lambda: Module(
            lambda m, x: (m.w(x) + 2 * (m.a @ (x.reshape(-1, 5, 2, 4) @ m.b.T)).flatten(-2)).tanh(),
            w=_linear(8, 12),
            a=_random(3, 2),
            b=_random(4, 4),
        ),
        (1, 5, 8),
        LINEAR,
    ),
    "scale and shift of a norm and of a layer": (
        lambda: Module(
            lambda m, x: torch.tanh(m.w(torch.tanh(m.n(x) * m.g + m.b)) * m.h + m.c),
            **{"n": nn.LayerNorm(8), "g": _random(8), "b": _random(8), "w": _linear(8, 12), "h": _random(12), "c": _random(12)},
        ),
        (1, 5, 8),
        ["aten.layer_norm", "aten.tanh", *LINEAR],
    ),
    "scale and shift of a convolution, and of its batch norm": (
        lambda: Module(
            lambda m, x: torch.relu(m.n(m.c(x) * m.g + m.b) * m.g),
            c=nn.Conv2d(3, 6, 3),
            n=nn.BatchNorm2d(6),
            g=_random(1, 6, 1, 1),
            b=_random(6, 1, 1),
        ),
        (1, 3, 8, 8),
        ["aten.conv2d", "aten.batch_norm", "aten.relu"],
    ),
    "scale of a norm that takes no shift": (
        lambda: Module(lambda m, x: torch.tanh(functional.rms_norm(x, (8,), m.w) * m.g + m.b), w=_random(8), g=_random(8), b=_random(8)),
        (1, 5, 8),
        ["aten.rms_norm", "aten.add.Tensor", "aten.tanh"],
    ),
    "relu adapter: more neurons of the same function": (
        lambda: Module(
            lambda m, x: m.w2(torch.relu(m.w1(x))) + x + 4 * m.u(torch.relu(m.d(x))),
            w1=_linear(8, 16),
            w2=_linear(16, 8),
            d=_linear(8, 3),
            u=_linear(3, 8),
        ),
        (1, 5, 8),
        ["aten.linear", "aten.relu", "aten.linear", "aten.add.Tensor"],
    ),
    "behind the residual": (
        lambda: Module(
            lambda m, x: (lambda r: torch.tanh(m.w(r) + x + m.b(m.a(r))))(torch.relu(x)), w=_linear(8, 8), a=_linear(8, 2), b=_linear(2, 8)
        ),
        (1, 5, 8),
        ["aten.relu", "aten.linear", "aten.add.Tensor", "aten.tanh"],
    ),
    "in front of two layers": (
        lambda: Module(
            lambda m, x: (lambda t: torch.tanh(torch.cat([m.q(t), m.k(t)], -1)))(x + m.b(m.a(x.transpose(1, 2))).transpose(1, 2)),
            **{"q": _linear(8, 12), "k": _linear(8, 12, seed=3), "a": nn.Conv1d(8, 2, 1), "b": nn.Conv1d(2, 8, 1)},
        ),
        (1, 5, 8),
        ["aten.linear", "aten.linear", "aten.cat", "aten.tanh"],
    ),
    "1x1 in a 3x3 of groups": (
        lambda: Module(lambda m, x: torch.relu(m.c(x) + m.p(x)), c=nn.Conv2d(6, 6, 3, padding=1, groups=3), p=nn.Conv2d(6, 6, 1, groups=3)),
        (1, 6, 8, 8),
        ["aten.conv2d", "aten.relu"],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_folds(name: str) -> None:
    make, shape, expected = FORMS[name]
    context = Context()
    folded = applied(FoldAdapters(), captured(make(), *shape), context)
    assert operators(folded) == expected
    assert context.refusals == []


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "bat: its own blocks times blocks": lambda: Module(_bat, w=_random(12, 8), b=_random(3, 4, 4)),
    "l4q: quantised after adding": lambda: Module(_l4q, w=_random(12, 8), a=_random(3, 8), b=_random(12, 3)),
    "perp: where the weight is": lambda: Module(
        lambda m, x: torch.tanh(functional.linear(x, m.w + 2 * (m.b @ m.a) * (m.w != 0))), w=_pruned(), a=_random(3, 8), b=_random(12, 3)
    ),
    "weight norm": lambda: Module(lambda m, x: torch.tanh(m.w(x)), w=weight_norm(_linear(8, 12))),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_the_graph_computes_becomes_one_bit_for_bit(name: str) -> None:
    program = captured(COMPUTED[name](), 1, 5, 8)
    folded = applied(FoldAdapters(), program)
    assert operators(folded) == LINEAR
    for batch in BATCHES:
        inputs = sample(program, batch)
        assert torch.equal(program.run(*inputs)[0], folded.run(*inputs)[0])
    if name.startswith("perp"):
        assert any(torch.equal(tensor == 0, _pruned() == 0) for tensor in folded.tensors.values() if tensor.dim() == 2)
    if name.startswith("l4q"):
        (weight,) = (tensor for tensor in folded.tensors.values() if tensor.dim() == 2)
        assert len(weight.unique()) <= 16


def test_folding_after_rounding_is_not_rounding_after_folding() -> None:
    """What a quantised base with an adapter beside it becomes: the fold is no multiple of the steps any more."""

    def body(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(functional.linear(x, 0.1 * torch.clamp(torch.round(m.w / 0.1), -8, 7)) + 2 * x @ m.a.T @ m.b.T)

    folded = applied(FoldAdapters(), captured(Module(body, w=_random(12, 8), a=_random(3, 8), b=_random(12, 3)), 1, 5, 8))
    (weight,) = (tensor for tensor in folded.tensors.values() if tensor.dim() == 2)
    assert len(weight.unique()) > 16


def test_a_fold_onto_zeros_says_how_many_it_costs() -> None:
    module = Module(
        lambda m, x: torch.tanh(functional.linear(x, m.w) + 2 * x @ m.a.T @ m.b.T), w=_pruned(), a=_random(3, 8), b=_random(12, 3)
    )
    context = Context()
    applied(FoldAdapters(), captured(module, 1, 5, 8), context)
    (certificate,) = context.notes
    assert isinstance(certificate, Certificate)
    assert certificate.zeros == (int((_pruned() == 0).sum()), 0)
    assert f"{certificate.zeros[0]} of its {certificate.zeros[0]} zeros are lost" in str(certificate)


def test_a_weight_of_two_layers_is_copied_for_the_one_that_is_adapted() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(m.w(torch.tanh(m.w(x) + m.b(m.a(x)))))

    program, context = captured(Module(body, w=_linear(8, 8), a=_linear(8, 3), b=_linear(3, 8)), 1, 5, 8), Context()
    folded = applied(FoldAdapters(), program, context)
    assert "w.weight is read by other layers too: copied, 256 bytes more" in context.notes
    assert operators(folded) == [*LINEAR, *LINEAR]
    assert torch.equal(folded.tensors["w.weight"], _random(8, 8)), "the other layer keeps its own"
    assert not torch.equal(folded.tensors["w.folded.weight"], _random(8, 8))


def _parts(*names: str, inputs: int = 16, outputs: int = 24) -> dict[str, Any]:
    sizes = {"w": (inputs, outputs), "a": (inputs, 3), "b": (3, outputs), "r": (inputs, 2)}
    return {name: _linear(*sizes[name]) for name in names}


def _bottleneck(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) + m.b(torch.relu(m.a(x))))


def _behind(m: Any, x: Tensor) -> Tensor:
    y = m.w(x)
    return torch.tanh(y + m.b(torch.relu(m.a(y))))


def _routed(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) + torch.softmax(m.r(x), -1)[..., :1] * m.b(m.a(x)))


def _top_one(m: Any, x: Tensor) -> Tensor:
    chosen = m.r(x).argmax(-1)
    return torch.tanh(m.w(x) + torch.einsum("bsro,bsr->bso", m.ups[chosen], m.a(x)))


def _by_instance(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) * (torch.softmax(m.r(x), -1) @ m.pool))


def _read_twice(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.w(x)
    return torch.tanh(y + m.b(m.a(x))), y


def _ladder(m: Any, x: Tensor) -> Tensor:
    first = torch.tanh(x)
    second = torch.relu(m.back(torch.relu(m.w(first))))
    side = torch.relu(m.s(torch.relu(m.a(first)) + m.c(second)))
    return second + m.d(side)


def _cancelling(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.w(x) + 1e9 * m.b(m.a(x)) - 1e9 * m.b(m.a(x) * 1.0001))


REFUSED: dict[str, tuple[Callable[[], nn.Module], Sequence[int], str]] = {
    "bottleneck": (
        lambda: Module(_bottleneck, **_parts("w", "a", "b")),
        (1, 5, 16),
        "add: what is added to linear is not linear in its input (relu); it stays beside the layer",
    ),
    "bottleneck behind it": (
        lambda: Module(_behind, **_parts("w", "b"), a=_linear(24, 3)),
        (1, 5, 16),
        "add: what is added to linear is not linear in its input (relu); it stays beside the layer",
    ),
    "mixture": (
        lambda: Module(_routed, **_parts("w", "a", "b", "r")),
        (1, 5, 16),
        "add: what is added to linear is chosen by the input (softmax); it stays beside the layer",
    ),
    "router": (
        lambda: Module(_top_one, **_parts("w", "a", "r"), ups=_random(2, 3, 24)),
        (1, 5, 16),
        "add: what is added to linear_1 is chosen by the input (argmax); it stays beside the layer",
    ),
    "scale of each instance": (
        lambda: Module(_by_instance, **_parts("w", "r"), pool=_random(2, 24)),
        (1, 5, 16),
        "mul: the factor of linear depends on the input (softmax); it stays beside the layer",
    ),
    "side network": (
        lambda: Module(
            _ladder, w=_linear(16, 24), back=_linear(24, 16), a=_linear(16, 3), c=_linear(16, 3), s=_linear(3, 3), d=_linear(3, 16)
        ),
        (1, 5, 16),
        "add_1: a side network is added, which reads tanh and relu_1; it is no branch of one layer: it stays",
    ),
    "also read without it": (
        lambda: Module(_read_twice, **_parts("w", "a", "b")),  # type: ignore[arg-type]
        (1, 5, 16),
        "add: linear is also read without it, by an output; two layers would take the place of one",
    ),
    "groups mixed": (
        lambda: Module(lambda m, x: torch.relu(m.c(x) + m.p(x)), c=nn.Conv2d(6, 6, 3, padding=1, groups=3), p=nn.Conv2d(6, 6, 1)),
        (1, 6, 8, 8),
        "add: it mixes the 3 groups of the convolution; it stays beside the layer",
    ),
    "padding after a shift": (
        lambda: Module(
            lambda m, x: torch.relu(m.c(x) + m.q(m.p(x))),
            c=nn.Conv2d(6, 6, 3, padding=1),
            p=nn.Conv2d(6, 2, 1),
            q=nn.Conv2d(2, 6, 3, padding=1),
        ),
        (1, 6, 8, 8),
        "add: conv2d_2: it pads with zeros what was shifted before; it stays beside the layer",
    ),
    "beside another function": (
        lambda: Module(lambda m, x: m.v(functional.gelu(m.w(x))) + m.b(torch.relu(m.a(x))), v=_linear(24, 24), **_parts("w", "a", "b")),
        (1, 5, 16),
        "add: relu is not gelu, the function beside it; it stays beside the layer",
    ),
    "terms that cancel": (
        lambda: Module(_cancelling, **_parts("w", "a", "b")),
        (1, 5, 16),
        "its terms cancel too far for its dtype: it stays",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fold_is_refused_with_the_reason(name: str) -> None:
    make, shape, expected = REFUSED[name]
    program, context = captured(make(), *shape), Context()
    assert FoldAdapters().apply(program, context) is program
    (found,) = refusals(context)
    assert expected in found


def test_constants_of_half_precision_stay() -> None:
    program = captured(
        Module(lambda m, x: torch.tanh(m.w(x) + m.b(m.a(x))), **_parts("w", "a", "b")).bfloat16(), 1, 5, 16, dtype=torch.bfloat16
    )
    context = Context()
    assert FoldAdapters().apply(program, context) is program
    assert refusals(context) == ["add: linear: it computes in torch.bfloat16; convert the model to float32"]


def test_a_low_rank_layer_stays_one() -> None:
    """Two narrow layers are no adapter: one would cost more."""
    program = captured(Module(lambda m, x: torch.tanh(m.b(m.a(x))), **_parts("a", "b")), 1, 5, 16)
    assert FoldAdapters().apply(program, Context()) is program


def test_simulated_programs_are_left_to_folders() -> None:
    program = captured(Module(lambda m, x: m.w(x) + m.b(m.a(x)), **_parts("w", "a", "b")), 1, 16)
    simulated = Pipeline([PlaceQuantizers()]).run(program, calibration=[sample(program, 4)]).program
    assert FoldAdapters().apply(simulated, Context()) is simulated


def test_options_read_as_they_print() -> None:
    item = FoldAdapters(path=("one", "two"), weights=(0.5, 0.25), combination="linear")
    assert Pipeline.parse(str(item)).passes == (item,)
    assert FoldAdapters(path="one") == FoldAdapters(path=("one",))  # type: ignore[arg-type]
    assert isinstance(FoldAdapters.promise, Close)
    assert isinstance(item, Pass)
