"""1000 digits, shifted by up to a pixel, 60 epochs ==> digits_cnn.safetensors; ``python -m fxpress.zoo.train_digits_cnn``.

One thread and one seed: the same machine and the same PyTorch write the same bytes again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from .digits_cnn import WEIGHTS, DigitsCNN, digits

_SEED, _EPOCHS, _BATCH, _RATE = 0, 60, 50, 3e-3


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [n, 1, 8, 8] moved by -1, 0 or 1 pixels along both axes; zeros move in."""
    size = images.shape[-1]
    padded = functional.pad(images, [1, 1, 1, 1])
    moves = torch.randint(0, 3, (2, len(images), 1), generator=generator)
    rows, columns = moves + torch.arange(size)
    return padded[torch.arange(len(images))[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def train(build: Callable[[], nn.Module] = DigitsCNN, epochs: int = _EPOCHS, rate: float = _RATE) -> nn.Module:
    """What `build` makes after `epochs`, in evaluation mode; the held-out digits are not looked at."""
    torch.manual_seed(_SEED)
    torch.set_num_threads(1)  # sums are split by thread, so another count would give other bits
    torch.use_deterministic_algorithms(True)
    images, labels = digits().train
    generator = torch.Generator().manual_seed(_SEED)
    model = build()
    steps = epochs * (len(images) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(images), generator=generator), _BATCH):
            loss = loss_of(model(shifted(images[rows], generator)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3} of {epochs}: loss {total / len(images):.4f}")
    return model.eval()


def save(model: nn.Module, file: Path) -> None:
    """Write the weights, under another name until they are complete."""
    partial = file.with_suffix(".partial")
    save_file(model.state_dict(), partial)
    partial.replace(file)


def command(description: str, build: Callable[[], nn.Module], weights: Path, epochs: int, rate: float) -> None:
    """Train, write the weights, print the held-out accuracy."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=weights, help="where to write the weights (default: the zoo's own file)")
    out: Path = parser.parse_args().out
    model = train(build, epochs, rate)
    save(model, out)
    images, labels = digits().held_out
    with torch.no_grad():
        correct = int((model(images).argmax(1) == labels).sum())
    print(f"held-out accuracy {correct / len(labels):.2%} ({correct} of {len(labels)}), {out.stat().st_size} bytes")


def main() -> None:
    command(__doc__ or "", DigitsCNN, WEIGHTS, _EPOCHS, _RATE)


if __name__ == "__main__":
    main()
