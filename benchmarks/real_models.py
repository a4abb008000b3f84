"""Architectures with random weights and the batch-norm statistics that such weights give on data."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]


def draw_batch_norms(model: nn.Module) -> None:
    """Draw the affine parameters of every batch norm."""
    for module in batch_norms(model):
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.normal_(module.bias, std=0.2)


def settle_batch_norms(model: nn.Module, batches: list[Tensor]) -> None:
    """Average the statistics of every batch norm over `batches`.

    Fresh batch norms (mean 0, variance 1) would let activations grow or vanish from layer to layer, as no trained
    model's do.
    """
    model.train()
    for module in batch_norms(model):
        module.momentum = None
        module.reset_running_stats()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.eval()


def resnet(depth: int = 18, *, classes: int = 1000, seed: int = 0) -> nn.Module:
    """transformers' ResNet-18 or ResNet-50 for 224 x 224 images, in evaluation mode.

    The last norm of each residual branch is small, as training makes it (the usual recipes start it at zero); with
    branches as strong as the stream itself, a deep random network amplifies any noise from block to block.
    """
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(seed)
    shapes = {18: ([2, 2, 2, 2], [64, 128, 256, 512], "basic"), 50: ([3, 4, 6, 3], [256, 512, 1024, 2048], "bottleneck")}
    depths, hidden, layer = shapes[depth]
    model = ResNetForImageClassification(ResNetConfig(depths=depths, hidden_sizes=hidden, layer_type=layer, num_labels=classes))
    draw_batch_norms(model)
    for stage in model.resnet.encoder.stages:
        for block in stage.layers:
            nn.init.uniform_(block.layer[-1].normalization.weight, 0.1, 0.5)
    settle_batch_norms(model, [torch.randn(4, 3, 224, 224) for _ in range(3)])
    return model


def mobilenet_v2(*, classes: int = 1000, seed: int = 0) -> nn.Module:
    """transformers' MobileNetV2 for 224 x 224 images, in evaluation mode; residual branches as in `resnet`."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(seed)
    model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=classes))
    draw_batch_norms(model)
    for block in model.mobilenet_v2.layer:
        if block.use_residual:
            nn.init.uniform_(block.reduce_1x1.normalization.weight, 0.1, 0.5)
    settle_batch_norms(model, [torch.randn(4, 3, 224, 224) for _ in range(3)])
    return model


def vit_s(*, classes: int = 1000, seed: int = 0) -> nn.Module:
    """transformers' ViT with the sizes of ViT-S/16 at 224 x 224, in evaluation mode."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=classes)
    return ViTForImageClassification(config).eval()


class LastHidden(nn.Module):
    """ids [batch, seq] ==> the last layer's values [batch, seq, channels] of a BERT."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.bert(input_ids).last_hidden_state
        return hidden


def bert(*, hidden: int = 768, heads: int = 12, layers: int = 12, seed: int = 0) -> nn.Module:
    """transformers' BERT without its pooler, BERT-base unless sizes are given, in evaluation mode."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(hidden_size=hidden, num_attention_heads=heads, num_hidden_layers=layers, intermediate_size=4 * hidden)
    return LastHidden(BertModel(config, add_pooling_layer=False)).eval()


def llama(*, hidden: int = 512, heads: int = 8, layers: int = 4, intermediate: int = 1408, seed: int = 0) -> nn.Module:
    """transformers' Llama without its head, a decoder with gated layers (SwiGLU), in evaluation mode."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(seed)
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": heads, "intermediate_size": intermediate}
    config = LlamaConfig(num_hidden_layers=layers, vocab_size=32000, use_cache=False, **sizes)
    return LastHidden(LlamaModel(config)).eval()
