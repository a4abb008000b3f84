"""Small convolutional networks in the manner of well-known ones: every operator that such models bring, once."""

from __future__ import annotations

import torch
from real_models import draw_batch_norms, settle_batch_norms
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(
    inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, activation: type[nn.Module] = nn.ReLU, **options: int
) -> nn.Sequential:
    """Convolution (same size unless strided), batch norm, activation."""
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(size // 2 for size in sizes)
    return nn.Sequential(nn.Conv2d(inputs, outputs, sizes, padding=padding, bias=False, **options), nn.BatchNorm2d(outputs), activation())


class InceptionLike(nn.Module):
    """Parallel branches (1x1, 5x5, 1x7 then 7x1, pooled) concatenated; average pooling with padding."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = conv_bn(3, width, stride=2)
        self.one = conv_bn(width, width, 1)
        self.five = nn.Sequential(conv_bn(width, width // 2, 1), conv_bn(width // 2, width, 5))
        self.seven = nn.Sequential(conv_bn(width, width, (1, 7)), conv_bn(width, width, (7, 1)))
        self.pooled = conv_bn(width, width // 2, 1)
        self.reduce = conv_bn(3 * width + width // 2, 2 * width, stride=2)
        self.head = nn.Linear(3 * width + width // 2 + 2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pooled(functional.avg_pool2d(x, 3, stride=1, padding=1))
        x = torch.cat([self.one(x), self.five(x), self.seven(x), pooled], 1)
        x = torch.cat([self.reduce(x), functional.max_pool2d(x, 3, stride=2, ceil_mode=True)[:, :, :8, :8]], 1)
        scores: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


class DenseNetLike(nn.Module):
    """Batch norm and ReLU before each convolution, every feature concatenated to all before it."""

    def __init__(self, growth: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(self._layer((2 + layer) * growth, growth) for layer in range(layers))
        width = (2 + layers) * growth
        self.transition = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2))
        self.norm = nn.BatchNorm2d(width // 2)
        self.head = nn.Linear(width // 2, 10)

    @staticmethod
    def _layer(inputs: int, growth: int) -> nn.Sequential:
        return nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.cat([x, block(x)], 1)
        x = functional.relu(self.norm(self.transition(x)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class UNetLike(nn.Module):
    """Down by pooling, up by a transposed convolution, nearest and bilinear interpolation, with skips."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = conv_bn(3, width)
        self.down1 = conv_bn(width, 2 * width)
        self.down2 = conv_bn(2 * width, 4 * width)
        self.down3 = conv_bn(4 * width, 4 * width)
        self.up3 = nn.ConvTranspose2d(4 * width, 4 * width, 2, stride=2)
        self.mix3 = conv_bn(8 * width, 2 * width)
        self.mix2 = conv_bn(4 * width, width)
        self.mix1 = conv_bn(2 * width, width)
        self.leave = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x)
        second = self.down1(functional.max_pool2d(first, 2))
        third = self.down2(functional.max_pool2d(second, 2))
        x = self.up3(self.down3(functional.max_pool2d(third, 2)))
        x = self.mix3(torch.cat([x, third], 1))
        x = self.mix2(torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), second], 1))
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        masks: Tensor = self.leave(self.mix1(torch.cat([x, first], 1)))
        return masks


class SqueezeExcitation(nn.Module):
    """x * hard_sigmoid(expand(relu(reduce(mean(x)))))."""

    def __init__(self, width: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.reduce, self.expand, self.gate = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.gate(self.expand(functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))))
        return gated


class SqueezeExcitationNet(nn.Module):
    """Inverted residuals with squeeze-and-excitation, hard-swish and SiLU, as in MobileNetV3 and EfficientNet."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = conv_bn(3, width, stride=2, activation=nn.Hardswish)
        self.first = self._block(width, nn.Hardswish, nn.Hardsigmoid)
        self.second = self._block(width, nn.SiLU, nn.Sigmoid)
        self.third = self._block(width, nn.LeakyReLU, nn.Sigmoid)
        self.scale = nn.Parameter(torch.linspace(-0.5, 1.5, width).reshape(width, 1, 1))
        self.activation = nn.PReLU(width)
        self.head = nn.Linear(width, 10)

    @staticmethod
    def _block(width: int, activation: type[nn.Module], gate: type[nn.Module]) -> nn.Sequential:
        wide = 2 * width
        return nn.Sequential(
            conv_bn(width, wide, 1, activation=activation),
            conv_bn(wide, wide, 5, groups=wide, activation=activation),
            SqueezeExcitation(wide, gate),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        x = x + self.second(x)
        x = self.activation(x + self.scale * self.third(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class ShuffleNetLike(nn.Module):
    """Channels split, one half transformed by grouped and depthwise convolutions, concatenated and shuffled."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, width, stride=2, activation=nn.ReLU6), nn.MaxPool2d(3, 2, 1))
        self.branches = nn.ModuleList(self._branch(width // 2) for _ in range(3))
        self.grouped = conv_bn(width, 2 * width, groups=4)
        self.head = nn.Linear(2 * width, 10)

    @staticmethod
    def _branch(width: int) -> nn.Sequential:
        depthwise = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width))
        return nn.Sequential(conv_bn(width, width, 1), depthwise, conv_bn(width, width, 1))

    @staticmethod
    def shuffle(x: Tensor, groups: int = 2) -> Tensor:
        batch, channels, height, width = x.shape
        return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            left, right = x.chunk(2, dim=1)
            x = self.shuffle(torch.cat([left, branch(right)], 1))
        scores: Tensor = self.head(self.grouped(x).mean((2, 3)))
        return scores


NETWORKS: dict[str, type[nn.Module]] = {
    "inception": InceptionLike,
    "densenet": DenseNetLike,
    "unet": UNetLike,
    "squeeze-excitation": SqueezeExcitationNet,
    "shufflenet": ShuffleNetLike,
}
"""Each takes images of shape [batch, 3, 32, 32]."""


def network(name: str, seed: int = 0) -> nn.Module:
    """A network with random weights and settled batch norms, in evaluation mode."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    draw_batch_norms(model)
    settle_batch_norms(model, [torch.randn(16, 3, 32, 32) for _ in range(3)])
    return model
