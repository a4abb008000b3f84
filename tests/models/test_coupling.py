"""Real architectures, every group that can shrink cut at random: masked == sliced, and sliced == the smaller configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as t
from coupled import captured, check_sliced
from fxpress_ir import Program
from fxpress_ir.analysis.coupling import coupled_groups
from fxpress_ir.slicing import slice_atoms
from torch import nn

from .architectures import ARCHITECTURES, architecture

PRUNABLE = {
    "resnet-18": 12, "mobilenet-v2": 25, "convnext": 9, "vit": 5, "swin": 10, "bert": 4, "gpt2": 5, "llama": 5,
    "qwen2": 5,
}  # fmt: skip
"""How many groups can shrink."""
UNALIKE = {"convnext": 4, "vit": 1, "swin": 2, "gpt2": 1, "llama": 1, "qwen2": 1}
"""How many of them a norm counts, so that zeros are not the same."""


def program(name: str) -> tuple[Program, list[tuple[torch.Tensor, ...]]]:
    """An architecture with drawn weights, and inputs of two batch sizes and lengths."""
    model, taken = architecture(name)
    inputs = [taken.inputs(batch, batch) for batch in (2, 3)]
    if taken.vocabulary is None:
        return captured(model, *inputs[0]), inputs
    inputs.append((torch.cat([inputs[1][0], inputs[1][0]], 1),))
    return captured(model, *inputs[0], dynamic=("batch", "seq")), inputs


@pytest.mark.parametrize("name", PRUNABLE)
def test_masked_is_sliced(name: str) -> None:
    whole, inputs = program(name)
    groups = coupled_groups(whole)
    assert len(groups.prunable) == PRUNABLE[name]
    assert sum(not group.exact for group in groups.prunable) == UNALIKE.get(name, 0)
    check_sliced(whole, inputs)


def test_every_other_architecture_is_here() -> None:
    assert PRUNABLE.keys() | {"resnet-50"} == ARCHITECTURES.keys()  # left out: three convolutions a block, else resnet-18


TEXT = {"num_hidden_layers": 2, "vocab_size": 100, "use_cache": False}
VISION = {"image_size": 32, "num_labels": 3}


@dataclass(frozen=True)
class Pair:
    """A configuration, a smaller one, and how many atoms of each group stay, by what the group's name ends in."""

    build: Callable[..., nn.Module]
    large: dict[str, Any]
    small: dict[str, Any]
    stay: dict[str, int]
    text: bool = True


def _gpt2(**sizes: int) -> nn.Module:
    return t.GPT2LMHeadModel(t.GPT2Config(n_layer=2, vocab_size=100, n_positions=64, use_cache=False, **sizes))


def _decoder(kind: str) -> Callable[..., nn.Module]:
    model, config = getattr(t, f"{kind}ForCausalLM"), getattr(t, f"{kind}Config")
    return lambda **sizes: model(config(**TEXT, head_dim=8, **sizes))


def _vit(**sizes: int) -> nn.Module:
    return t.ViTForImageClassification(t.ViTConfig(**VISION, num_hidden_layers=2, patch_size=8, **sizes))


def _bert(**sizes: int) -> nn.Module:
    return t.BertForSequenceClassification(t.BertConfig(num_hidden_layers=2, vocab_size=100, **sizes))


def _convnext(**sizes: Any) -> nn.Module:
    return t.ConvNextForImageClassification(t.ConvNextConfig(depths=[1, 1, 1, 1], **VISION, **sizes))


def _resnet(**sizes: Any) -> nn.Module:
    return t.ResNetForImageClassification(t.ResNetConfig(depths=[1, 1, 1, 1], layer_type="basic", num_labels=3, **sizes))


_WIDE = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
_LESS = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
_GROUPED = {"num_attention_heads": 2, "num_key_value_heads": 1}
_STAY = {"embed_tokens": 24, "q_proj": 1, "gate_proj": 40}
PAIRS = {
    "gpt2": Pair(_gpt2, {"n_embd": 32, "n_head": 4}, {"n_embd": 24, "n_head": 3, "n_inner": 40}, {"lm_head": 24, "c_attn": 3, "c_fc": 40}),
    "llama": Pair(_decoder("Llama"), {**_WIDE, "num_key_value_heads": 2}, {**_LESS, **_GROUPED}, _STAY),
    "qwen3": Pair(_decoder("Qwen3"), {**_WIDE, "num_key_value_heads": 2}, {**_LESS, **_GROUPED}, _STAY),
    "bert": Pair(_bert, _WIDE, _LESS, {"word_embeddings": 24, "query": 3, "intermediate.dense": 40, "pooler.dense": 24}),
    "vit": Pair(_vit, _WIDE, _LESS, {"projection": 24, "q_proj": 3, "fc1": 40}, text=False),
    "convnext": Pair(
        _convnext,
        {"hidden_sizes": [16] * 4},
        {"hidden_sizes": [12] * 4},
        {"patch_embeddings": 12, "downsampling_layer.1": 12, "pwconv1": 48},
        text=False,
    ),
    "resnet": Pair(
        _resnet,
        {"embedding_size": 16, "hidden_sizes": [16] * 4},
        {"embedding_size": 12, "hidden_sizes": [12] * 4},
        {"convolution": 12},
        text=False,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_sliced_is_the_smaller_configuration(name: str) -> None:
    pair = PAIRS[name]
    generator = torch.Generator().manual_seed(1)

    def given(batch: int) -> torch.Tensor:
        ids = torch.randint(0, 100, (batch, 12), generator=generator)
        return ids if pair.text else torch.randn(batch, 3, 32, 32, generator=generator)

    whole, small = (captured(pair.build(**sizes), given(2)) for sizes in (pair.large, pair.small))
    groups = coupled_groups(whole)
    keep = {}
    for group in groups.prunable:
        stay = next(count for ending, count in pair.stay.items() if group.name.endswith(ending))
        keep[group.name] = tuple(sorted(torch.randperm(group.size, generator=generator)[:stay].tolist()))
    sliced = slice_atoms(whole, keep)
    assert {tensor: value.shape for tensor, value in sliced.tensors.items()} == {
        tensor: value.shape for tensor, value in small.tensors.items()
    }
    assert sliced.cost() == small.cost()
    edit = small.edit()
    edit.tensors = {tensor: sliced.tensors[tensor].clone() for tensor in edit.tensors}
    expected = edit.finish()
    for batch in (2, 3):
        inputs = given(batch)
        for found, wanted in zip(sliced.run(inputs), expected.run(inputs), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))  # the same kernels on the same sizes


def test_half_of_resnet_18() -> None:
    """Torch-Pruning's count for ratio 0.5 of all groups, the stem and the streams included: 3,055,880 parameters, 0.487 G."""
    config = t.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1000)
    model = t.ResNetForImageClassification(config).eval()
    whole = captured(model, torch.zeros(2, 3, 224, 224))
    assert parameters(whole) == 11_689_512
    half = slice_atoms(whole, {group.name: range(8 * round(group.size / 16)) for group in coupled_groups(whole).prunable})
    assert parameters(half) == 3_055_880
    assert half.cost().macs == 483_149_824
    # Torch-Pruning also counts 2 for each element of a batch norm, 1 of a ReLU, of what is pooled, and of a linear layer's bias
    counted = {"batch_norm": 2, "relu": 1, "max_pool2d": 1, "adaptive_avg_pool2d": 1}
    others = 1000
    for node in half.graph.nodes:
        if node.op == "call_function" and node.target._opname in counted:
            others += counted[node.target._opname] * node.args[0].meta["val"][0].numel()
    assert half.cost().macs + others == 487_202_536


def parameters(program: Program) -> int:
    """Elements of tensors, the running statistics of batch norms left out: they are buffers."""
    return sum(tensor.numel() for name, tensor in program.tensors.items() if "running" not in name)
