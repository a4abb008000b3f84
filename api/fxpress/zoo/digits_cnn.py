"""[n, 1, 8, 8] grey images of handwritten digits ==> [n, 10] scores, by a small residual convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry

NAME = "digits-cnn"
WEIGHTS = Path(__file__).with_name("digits_cnn.safetensors")
_TRAIN, _SEED = 1000, 2026
_BATCHES, _BATCH = 8, 32


class ResidualBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut); the shortcut is x itself, or a strided 1x1 convolution and norm."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        result: Tensor = self.relu(y + self.shortcut(x))
        return result


class DigitsCNN(nn.Module):
    """Stem, three residual blocks (the second halves the image), a convolution with a bias, one linear layer.

    Both kinds of pooling and an explicit average before the global one are there to be compressed, not to win points.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.max_pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.block1 = ResidualBlock(width, width)
        self.block2 = ResidualBlock(width, 2 * width, stride=2)
        self.block3 = ResidualBlock(2 * width, 2 * width)
        self.mix = nn.Conv2d(2 * width, 3 * width, 1)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.max_pool(self.stem(x))
        y = self.block3(self.block2(self.block1(y)))
        y = functional.relu(self.mix(functional.avg_pool2d(y, 2)))
        scores: Tensor = self.head(torch.flatten(self.global_pool(y), 1))
        return scores


@dataclass(frozen=True, eq=False)
class Digits:
    """Images float32 [n, 1, 8, 8] in [0, 1] and labels int64 [n]; `train_rows` and `held_out_rows` index the data set."""

    images: Tensor
    labels: Tensor
    train_rows: Tensor
    held_out_rows: Tensor

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        return self.images[self.train_rows], self.labels[self.train_rows]

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        return self.images[self.held_out_rows], self.labels[self.held_out_rows]


def digits() -> Digits:
    """scikit-learn's 1797 digits: 1000 to train, 797 held out, each class in the same proportion in both.

    NumPy froze the stream of ``RandomState``, so no later version can move a training image into the held-out set.
    """
    from sklearn.datasets import load_digits  # takes a second to import, and names() has no use for it

    found = load_digits()
    labels = np.asarray(found.target, np.int64)
    shuffled = np.random.RandomState(_SEED).permutation(len(labels))
    place = np.empty(len(labels))  # of each image within its class, from 0 to 1
    for label in range(10):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = torch.from_numpy(shuffled[np.argsort(place[shuffled], kind="stable")])
    images = torch.from_numpy(np.asarray(found.images / 16, np.float32)).unsqueeze(1)
    return Digits(images, torch.from_numpy(labels), order[:_TRAIN], order[_TRAIN:])


def load() -> Entry:
    """The trained network with its data."""
    model = DigitsCNN().eval()
    model.load_state_dict(load_file(WEIGHTS))
    data = digits()
    images = data.train[0]
    return Entry(
        name=NAME,
        description="residual convolutional network with batch norms, 8x8 handwritten digits",
        model=model,
        inputs=(images[:1],),
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        calibration=[(batch,) for batch in torch.split(images, _BATCH)[:_BATCHES]],
        held_out=data.held_out,
    )
