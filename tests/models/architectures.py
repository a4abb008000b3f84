"""transformers' architectures in small random configurations, with example inputs of batch 1 and their dynamic dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as t
from torch import Tensor, nn
from torch.export import Dim


@dataclass(frozen=True)
class Architecture:
    """How to build a model, and the name and shape of its input; ids where `vocabulary` is given."""

    build: Callable[[], nn.Module]
    name: str
    shape: tuple[int, ...]
    vocabulary: int | None = None

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        if self.vocabulary is not None:
            return (torch.randint(0, self.vocabulary, (batch, *self.shape), generator=generator),)
        return (torch.randn(batch, *self.shape, generator=generator),)

    @property
    def dynamic_shapes(self) -> dict[str, Any]:
        return {self.name: {0: Dim("batch")}}


_TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}
_TEXT_FREE = {key: value for key, value in _TEXT.items() if key != "vocab_size"}
_IDS = ("input_ids", (12,), 100)
_IMAGE = ("pixel_values", (3, 32, 32))


def _resnet(depths: list[int], layer: str) -> nn.Module:
    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=depths, layer_type=layer)
    return t.ResNetForImageClassification(config)


def _mobilenet_v2() -> nn.Module:
    return t.MobileNetV2ForImageClassification(t.MobileNetV2Config(image_size=32, depth_multiplier=0.35))


def _convnext() -> nn.Module:
    return t.ConvNextForImageClassification(t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=32))


def _swin() -> nn.Module:
    config = t.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return t.SwinForImageClassification(config)


def _gpt2() -> nn.Module:
    return t.GPT2LMHeadModel(t.GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=100, n_positions=64, use_cache=False))


def _decoder(model: type[nn.Module], config: type) -> nn.Module:
    return model(config(**_TEXT, num_key_value_heads=2, use_cache=False))


ARCHITECTURES: dict[str, Architecture] = {
    "resnet-18": Architecture(lambda: _resnet([2, 2, 2, 2], "basic"), *_IMAGE),
    "resnet-50": Architecture(lambda: _resnet([3, 4, 6, 3], "bottleneck"), *_IMAGE),
    "mobilenet-v2": Architecture(_mobilenet_v2, *_IMAGE),
    "convnext": Architecture(_convnext, *_IMAGE),
    "vit": Architecture(lambda: t.ViTForImageClassification(t.ViTConfig(**_TEXT_FREE, image_size=32, patch_size=8)), *_IMAGE),
    "swin": Architecture(_swin, *_IMAGE),
    "bert": Architecture(lambda: t.BertModel(t.BertConfig(**_TEXT)), *_IDS),
    "gpt2": Architecture(_gpt2, *_IDS),
    "llama": Architecture(lambda: _decoder(t.LlamaForCausalLM, t.LlamaConfig), *_IDS),
    "qwen2": Architecture(lambda: _decoder(t.Qwen2ForCausalLM, t.Qwen2Config), *_IDS),
}


def architecture(name: str, seed: int = 0) -> tuple[nn.Module, Architecture]:
    """The model in evaluation mode, and what it takes."""
    torch.manual_seed(seed)
    return ARCHITECTURES[name].build().eval(), ARCHITECTURES[name]
