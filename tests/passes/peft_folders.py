"""Tiny BERT, GPT-2 and Llama, captured once each, and real PEFT folders of adapters on them, with what PEFT's own forward gives."""

from __future__ import annotations

import copy
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from fxpress_ir import Program, capture
from torch import Tensor, nn

_SMALL = {"vocab_size": 40, "attn_implementation": "eager"}
IDS = torch.tensor([[3, 1, 4, 15, 9, 2], [6, 5, 35, 8, 9, 7], [12, 3, 23, 8, 4, 6]])


class Net(nn.Module):
    """A model under a wrapper, so that parameters have a prefix; takes ids, gives logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor) -> Tensor:
        result = self.net(ids)
        return result.logits if hasattr(result, "logits") else result


class Vision(nn.Module):
    """Convolutions of one, two and three dimensions, a grouped one, a norm, and one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 6)
        self.line = nn.Conv1d(6, 8, 3, padding=1)
        self.plane = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.space = nn.Conv3d(1, 2, (1, 3, 3), padding=(0, 1, 1))
        self.apart = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm = nn.LayerNorm(6)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.relu(self.line(self.table(ids).transpose(1, 2)))
        x = torch.relu(self.plane(x.unsqueeze(1)))
        x = self.apart(x)
        return self.norm(torch.tanh(self.space(x.unsqueeze(1))))


class Experts(nn.Module):
    """A parameter for three experts, read by one product; stored inputs first or, as `is_transposed` says, outputs first."""

    def __init__(self, is_transposed: bool) -> None:
        super().__init__()
        self.w, self.is_transposed = nn.Parameter(torch.ones(3, 6, 8)), is_transposed

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,eio->ebo" if self.is_transposed else "bo,eio->ebi", x, self.w)


class Special(nn.Module):
    """Both kinds of experts and an nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Experts(True), Experts(False)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = ids[:, None, :].float() / 40
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.last(self.first(x.squeeze(1)).sum(0)).transpose(0, 1)


@lru_cache
def base(name: str) -> nn.Module:
    """The model, in evaluation mode; `copy` it before an adapter is put on."""
    torch.manual_seed(7)
    if name == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        config = transformers.BertConfig(**_SMALL, **sizes, max_position_embeddings=16)
        model: nn.Module = transformers.BertForSequenceClassification(config)
    elif name == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "n_inner": 48, "bos_token_id": 0, "eos_token_id": 1}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**_SMALL, **sizes, use_cache=False))
    elif name == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SMALL, **sizes, tie_word_embeddings=True, use_cache=False))
    else:
        model = {"vision": Vision, "special": Special}[name]()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # a fresh model has zero biases, which would hide what a fold does to them
    return model.eval()


@lru_cache
def program(name: str) -> Program:
    exported = torch.export.export(Net(base(name)), (IDS[:2],), dynamic_shapes={"ids": {0: torch.export.Dim("batch")}}, strict=False)
    return capture(exported)


def peft_model(name: str, config: Any, *, seed: int = 0) -> Any:
    """An adapter on a copy of the base, in evaluation mode, every trained value moved: a fresh one is no change."""
    import peft

    copied = copy.deepcopy(base(name))  # before the seed: making the base sets one of its own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = peft.get_peft_model(copied, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def run(model: Any) -> Tensor:
    with torch.no_grad():
        return Net(model.base_model)(IDS)


def adapted(name: str, config: Any, folder: Path, *, seed: int = 0) -> Tensor:
    """Put an adapter on a copy of the base and save it to `folder`; what PEFT's forward gives for IDS."""
    model = peft_model(name, config, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    return run(model)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Max abs difference over max abs wanted value."""
    return float((found - wanted).abs().max() / wanted.abs().max())
