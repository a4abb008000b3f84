"""A zoo entry: a trained model together with all that compressing and judging it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

_BATCH = 100


@dataclass(frozen=True, eq=False)
class Entry:
    """A model, its example inputs, its calibration data and its held-out data.

    Attributes:
        scores: whether every floating-point output holds scores (logits) along its last axis, of classes or of the next token, [..., n],
            so that softmax makes probabilities of them: how far a compressed model is from this one is then the divergence
            KL(softmax(original) || softmax(other)) of each row, in nats; where it is False, as for embeddings, the relative error.
        name: as users write it, ``digits-cnn``.
        description: one line.
        model: in evaluation mode, trained.
        inputs: example inputs, batch 1.
        dynamic_shapes: as ``capture`` takes it.
        calibration: batches of inputs from the training data; can be walked any number of times.
        held_out: images and labels (int64, [n]) that neither training nor calibration saw.
    """

    scores: ClassVar[bool] = True
    name: str
    description: str
    model: nn.Module
    inputs: tuple[Tensor, ...]
    dynamic_shapes: Mapping[str, Any]
    calibration: Sequence[tuple[Tensor, ...]]
    held_out: tuple[Tensor, Tensor]

    def evaluate(self, run: Callable[..., Sequence[Any]]) -> float:
        """Top-1 accuracy on the held-out data, from 0 to 1.

        Args:
            run: takes one batch of images, returns its outputs, the scores [batch, classes] first: ``program.run``,
                ``artifact.run``. Scores may be tensors or arrays, of floats or integers.
        """
        correct = 0
        for images, labels in zip(*(torch.split(part, _BATCH) for part in self.held_out), strict=True):
            scores = torch.as_tensor(run(images)[0])
            correct += int((scores.argmax(1) == labels).sum())
        return correct / len(self.held_out[1])
