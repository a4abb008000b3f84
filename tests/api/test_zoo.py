"""The zoo's models are what their entries say: small, trained on other data than they are judged by, and capturable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fxpress import zoo
from fxpress.zoo import digits_cnn
from fxpress.zoo.train_digits_cnn import save, shifted
from fxpress_ir import Dimension, capture
from fxpress_ir.errors import InputError
from numpy.typing import NDArray
from torch import nn


@pytest.fixture(scope="module")
def entry() -> zoo.Entry:
    return zoo.load("digits-cnn")


def test_every_name_loads_as_itself() -> None:
    assert [zoo.load(name).name for name in zoo.names()] == ["digits-cnn"]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no model 'digits'; known: digits-cnn"):
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
