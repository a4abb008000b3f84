"""The zoo's models are what their entries say: small, trained on other data than they are judged by, and capturable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress import zoo
from fxpress.zoo import char_code, char_lm, digits_cnn, digits_vit
from fxpress.zoo.train_digits_cnn import save, shifted
from fxpress_ir import Dimension, capture
from fxpress_ir.errors import InputError
from numpy.typing import NDArray
from torch import nn


@pytest.fixture(scope="module")
def entry() -> zoo.Entry:
    return zoo.load("digits-cnn")


def test_every_name_loads_as_itself() -> None:
    assert [zoo.load(name).name for name in zoo.names()] == ["digits-cnn", "digits-vit", "char-lm", "char-code", "minilm-l6"]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no model 'digits'; known: digits-cnn, digits-vit, char-lm"):
        zoo.load("digits")


def test_the_weights_are_small(entry: zoo.Entry) -> None:
    assert sum(weight.numel() for weight in entry.model.parameters()) == 157_834
    assert digits_cnn.WEIGHTS.stat().st_size < 1_000_000


def test_the_model_is_in_evaluation_mode(entry: zoo.Entry) -> None:
    assert not any(module.training for module in entry.model.modules())


def test_the_split_is_disjoint_complete_and_stratified() -> None:
    data = digits_cnn.digits()
    assert (len(data.train_rows), len(data.held_out_rows)) == (1000, 797)
    assert torch.equal(torch.cat([data.train_rows, data.held_out_rows]).sort().values, torch.arange(1797))
    share = data.train[1].bincount() / data.labels.bincount()
    assert float((share - 1000 / 1797).abs().max()) < 1 / 174  # less than one image of the smallest class


def test_the_split_never_moves() -> None:
    rows = digits_cnn.digits().train_rows
    assert rows[:8].tolist() == [431, 692, 1766, 662, 1281, 1740, 1509, 595]
    assert int((rows * torch.arange(1, 1001)).sum()) == 450_886_465


def test_calibration_can_be_walked_twice_and_is_training_data(entry: zoo.Entry) -> None:
    first, second = ([images for (images,) in entry.calibration] for _ in range(2))
    assert [tuple(images.shape) for images in first] == [(32, 1, 8, 8)] * 8
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.cat(first), digits_cnn.digits().train[0][:256])


def test_accuracy_on_held_out_digits(entry: zoo.Entry) -> None:
    program = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    accuracy = entry.evaluate(program.run)
    assert accuracy >= 0.98
    assert entry.evaluate(program.run) == accuracy


def test_accuracy_is_the_share_of_right_answers(entry: zoo.Entry) -> None:
    images, labels = entry.held_out
    wrong = {images[row].numpy().tobytes() for row in (0, 99, 100, 796)}

    def run(batch: torch.Tensor) -> tuple[NDArray[np.int32]]:
        rows = [int((images == image).flatten(1).all(1).nonzero()[0, 0]) for image in batch]
        flipped = torch.tensor([image.numpy().tobytes() in wrong for image in batch])
        return (nn.functional.one_hot((labels[rows] + flipped) % 10, 10).to(torch.int32).numpy(),)

    assert entry.evaluate(run) == 793 / 797


def test_capture_keeps_the_batch_dynamic(entry: zoo.Entry) -> None:
    program = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    (spec,) = program.inputs
    assert (spec.name, spec.shape, spec.dtype) == ("x", (Dimension("batch"), 1, 8, 8), torch.float32)
    images = entry.held_out[0]
    for batch in (1, 3):
        with torch.no_grad():
            assert torch.equal(program.run(images[:batch])[0], entry.model(images[:batch]))


def test_the_graph_holds_what_the_passes_are_shown_on(entry: zoo.Entry) -> None:
    program = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    found = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"aten.batch_norm.default", "aten.max_pool2d.default", "aten.avg_pool2d.default", "aten.add.Tensor"} <= found
    assert {"aten.adaptive_avg_pool2d.default", "aten.flatten.using_ints", "aten.linear.default"} <= found


def test_shifts_move_images_by_at_most_a_pixel() -> None:
    image = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8)
    moved = shifted(image.expand(200, 1, 8, 8), torch.Generator().manual_seed(0))
    padded = nn.functional.pad(image, [1, 1, 1, 1])
    allowed = [padded[0, 0, row : row + 8, column : column + 8] for row in range(3) for column in range(3)]
    counts = [sum(torch.equal(one[0], other) for one in moved) for other in allowed]
    assert sum(counts) == 200
    assert min(counts) > 0


def test_saved_weights_load_and_leave_nothing_else(tmp_path: Path) -> None:
    save(digits_cnn.DigitsCNN(8), tmp_path / "weights.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize(("name", "parameters", "bytes_"), [("digits-vit", 136_138, 600_000), ("char-lm", 771_200, 5_000_000)])
def test_the_other_weights_are_small(name: str, parameters: int, bytes_: int) -> None:
    module = {"digits-vit": digits_vit, "char-lm": char_lm}[name]
    assert sum(weight.numel() for weight in zoo.load(name).model.parameters()) == parameters
    assert module.WEIGHTS.stat().st_size < bytes_


def test_the_vision_transformer_reads_digits_and_stays_right_in_integers() -> None:
    """Half a point of the float accuracy at most."""
    entry = zoo.load("digits-vit")
    program = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    integer = fx.Pipeline.parse("quantize-dyadic{integer_only=true}").run(program, calibration=entry.calibration).program
    accuracy = entry.evaluate(program.run)
    assert accuracy >= 0.98
    assert entry.evaluate(integer.run) >= accuracy - 0.005


def test_the_decoder_holds_out_whole_topics() -> None:
    data = char_lm.text()
    train, held_out = (bytes(part.tolist()).decode() for part in (data.train, data.held_out))
    names = sorted(topics)
    for number, name in enumerate(names):
        assert (topics[name] in held_out) == (number % 8 == 7), name
        assert topics[name] in (held_out if number % 8 == 7 else train), name
    entry = char_lm.load()
    ids, following = entry.held_out
    assert torch.equal(ids[:, 1:], following[:, :-1])
    assert torch.equal(ids[1:, 0], following[:-1, -1])


def test_perplexity_of_even_odds_is_the_vocabulary() -> None:
    entry = char_lm.load()
    assert entry.perplexity(lambda ids: (torch.zeros(*ids.shape, 256),)) == pytest.approx(256, rel=1e-5)  # a sum of float32 logarithms


def test_the_decoder_keeps_its_perplexity_in_integers() -> None:
    """Two percent of the float perplexity at most, over a part of the held-out text; the next byte is guessed as often, nearly."""
    entry = char_lm.load()
    entry = replace(entry, held_out=(entry.held_out[0][:64], entry.held_out[1][:64]))
    program = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    integer = fx.Pipeline.parse("quantize-dyadic{integer_only=true}").run(program, calibration=entry.calibration).program
    perplexity = entry.perplexity(program.run)
    assert perplexity < 5
    assert entry.perplexity(integer.run) <= 1.02 * perplexity
    assert entry.evaluate(integer.run) >= entry.evaluate(program.run) - 0.01


def test_the_adapter_is_small_and_adapts_the_decoder_to_code() -> None:
    assert sum(file.stat().st_size for file in char_code.ADAPTER.iterdir()) < 400_000
    entry = zoo.load("char-code")
    entry = replace(entry, held_out=(entry.held_out[0][:24], entry.held_out[1][:24]))
    program = capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    adapted = fx.Pipeline([fx.passes.FoldAdapters(path=(str(char_code.ADAPTER),))]).run(program).program
    assert len(adapted.graph.nodes) == len(program.graph.nodes)
    assert entry.perplexity(adapted.run) < 0.6 * entry.perplexity(program.run)


def test_code_is_held_out_by_whole_modules() -> None:
    data = char_code.code()
    assert len(data.train) > 4 * len(data.held_out) > 0
    entry = char_code.load()
    ids, following = entry.held_out
    assert torch.equal(ids[:, 1:], following[:, :-1])
