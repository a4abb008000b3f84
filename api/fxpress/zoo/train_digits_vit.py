"""1000 digits, shifted by up to a pixel, 200 epochs ==> digits_vit.safetensors; ``python -m fxpress.zoo.train_digits_vit``."""

from __future__ import annotations

from .digits_vit import WEIGHTS, DigitsViT
from .train_digits_cnn import command

_EPOCHS, _RATE = 200, 2e-3


def main() -> None:
    command(__doc__ or "", DigitsViT, WEIGHTS, _EPOCHS, _RATE)


if __name__ == "__main__":
    main()
