"""A zoo model, training inputs drawn by a seed, its held-out loss and quality; figures over seeds, and which of two is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import fxpress as fx
import torch
from fxpress.zoo.char_lm import LENGTH, TextEntry, text
from fxpress.zoo.digits_cnn import digits
from fxpress_passes.contract import Context
from fxpress_passes.evidence import Calibration, Evidence
from torch import Tensor
from torch.nn import functional

SEEDS = (0, 1, 2)
"""What is drawn by them: training inputs for calibration and recovery, random scores, the factors that recovery begins with."""
BATCHES, EVERY = 8, 4
"""Batches of calibration data; of held-out text every fourth window is looked at."""
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Model:
    """A zoo entry and its program."""

    entry: fx.zoo.Entry
    program: fx.Program

    @classmethod
    def of(cls, name: str) -> Model:
        """The entry called `name`, of text some windows; captured once."""
        return cls(*_captured(name))

    @property
    def is_text(self) -> bool:
        return isinstance(self.entry, TextEntry)

    def drawn(self, seed: int, batches: int = BATCHES) -> list[Batch]:
        """Batches of inputs from the training data, without labels, each input once in a walk through them: 32 images or 16 windows."""
        generator = torch.Generator().manual_seed(seed)
        if self.is_text:
            starts = torch.randint(0, len(_text()) - LENGTH, (batches * 16,), generator=generator)
            return [(part,) for part in torch.split(_text()[starts[:, None] + torch.arange(LENGTH)], 16)]
        images = digits().train[0]
        order = torch.randperm(len(images), generator=generator)[: batches * 32]
        return [(part,) for part in torch.split(images[order], 32)]

    def context(self, seed: int, batches: int = BATCHES) -> Context:
        """What a pass gets in a pipeline that began with the program, on drawn data."""
        return Context(Evidence(Calibration(self.drawn(seed, batches))), seed=seed, original=self.program)

    def loss(self, run: Callable[..., Sequence[Any]]) -> float:
        """Mean held-out cross-entropy of labels, or of the bytes that follow."""
        total = 0.0
        for inputs, labels in zip(*(torch.split(part, 32) for part in self.entry.held_out), strict=True):
            scores = torch.as_tensor(run(inputs)[0])
            total += float(functional.cross_entropy(scores.flatten(0, -2).float(), labels.flatten(), reduction="sum"))
        return total / self.entry.held_out[1].numel()


@cache
def _captured(name: str) -> tuple[fx.zoo.Entry, fx.Program]:
    entry = fx.zoo.load(name)
    if isinstance(entry, TextEntry):
        entry = replace(entry, held_out=(entry.held_out[0][::EVERY], entry.held_out[1][::EVERY]))
    return entry, fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)


@cache
def _text() -> Tensor:
    return text().train


def next_byte(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    """Cross-entropy of the text itself."""
    return functional.cross_entropy(outputs[0][:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())


@dataclass(frozen=True)
class Spread:
    """One figure a seed; higher is better unless `falls`."""

    figures: tuple[float, ...]
    falls: bool = False

    @property
    def mean(self) -> float:
        return sum(self.figures) / len(self.figures)

    def shown(self, form: str) -> str:
        """The mean and, where seeds differ, the least and the most: ``97.1% (96.6% to 97.5%)``."""
        low, high = (format(one, form) for one in (min(self.figures), max(self.figures)))
        return low if low == high else f"{self.mean:{form}} ({low} to {high})"

    def against(self, other: Spread) -> str:
        """``better``, ``worse``, or ``tie`` where the intervals from least to most meet."""
        if min(self.figures) > max(other.figures):
            return "worse" if self.falls else "better"
        if max(self.figures) < min(other.figures):
            return "better" if self.falls else "worse"
        return "tie"
