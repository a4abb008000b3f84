"""Architectures with random weights and the batch-norm statistics that such weights give on data."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def settle_batch_norms(model: nn.Module, batches: list[Tensor]) -> None:
    """Draw the affine parameters of every batch norm and average its statistics over `batches`.

    Fresh batch norms (mean 0, variance 1) would let activations grow or vanish from layer to layer, as no trained
    model's do.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
            module.reset_running_stats()
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.eval()


def resnet(depth: int = 18, *, classes: int = 1000, seed: int = 0) -> nn.Module:
    """transformers' ResNet-18 or ResNet-50 for 224 x 224 images, in evaluation mode."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(seed)
    shapes = {18: ([2, 2, 2, 2], [64, 128, 256, 512], "basic"), 50: ([3, 4, 6, 3], [256, 512, 1024, 2048], "bottleneck")}
    depths, hidden, layer = shapes[depth]
    model = ResNetForImageClassification(ResNetConfig(depths=depths, hidden_sizes=hidden, layer_type=layer, num_labels=classes))
    settle_batch_norms(model, [torch.randn(4, 3, 224, 224) for _ in range(3)])
    return model
