"""Calibration takes what users have, walks it as often as it is asked to, and names the batch that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from float_programs import captured
from fxpress_ir import Program, capture
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence import Batch, Calibration
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

DATA = [torch.full((batch, 3), float(batch)) for batch in (1, 4, 2)]
"""Batches of different sizes."""


@lru_cache
def _program() -> Program:
    return captured(torch.relu, 1, 3)


@lru_cache
def _two_inputs() -> Program:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    batch = torch.export.Dim("batch")
    return capture(Sum(), (torch.zeros(1, 3), torch.zeros(1, 3)), dynamic_shapes={"x": {0: batch}, "y": {0: batch}})


def _once(batches: Iterable[Any]) -> Iterator[Any]:
    yield from batches


class _Walkable:
    """Can be walked any number of times and has no length."""

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        return ((batch,) for batch in DATA)


class _Rows(Dataset[Tensor]):
    """A data set of whole batches."""

    def __getitem__(self, row: int) -> Tensor:
        return DATA[row]

    def __len__(self) -> int:
        return len(DATA)


def _equal(found: Iterable[Batch], expected: Iterable[Batch]) -> bool:
    return all(torch.equal(a, b) for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [(batch,) for batch in DATA],
        lambda: [[batch] for batch in DATA],
        lambda: tuple(DATA),
        lambda: [batch.numpy() for batch in DATA],
        lambda: [(batch.numpy(),) for batch in DATA],
        lambda: ((batch,) for batch in DATA),
        lambda: _once(batch.numpy() for batch in DATA),
        lambda: map(list, zip(DATA, strict=True)),
        _Walkable,
        lambda: DataLoader(_Rows(), batch_size=None),
    ],
    ids=["tuples", "lists", "tensors", "arrays", "tuples of arrays", "expression", "generator", "map", "iterable", "loader"],
)
def test_whatever_gives_batches_can_be_walked_twice(make: Callable[[], Iterable[Any]]) -> None:
    calibration = Calibration(make())
    assert len(calibration) == 3
    for _ in range(2):
        assert _equal(calibration.batches(_program()), [(batch,) for batch in DATA])
    assert torch.equal(calibration.first(_program())[0], DATA[0])


def test_a_loader_of_a_data_set_gives_lists() -> None:
    calibration = Calibration(DataLoader(TensorDataset(torch.arange(12.0).reshape(4, 3)), batch_size=3))
    assert [len(x) for (x,) in calibration.batches(_program())] == [3, 1]


def test_a_generator_is_walked_only_once() -> None:
    walked = []

    def once() -> Iterator[Tensor]:
        for batch in DATA:
            walked.append(batch)
            yield batch

    calibration = Calibration(once())
    for _ in range(2):
        list(calibration.batches(_program()))
    assert len(walked) == 3


def test_a_generator_is_read_no_further_than_it_is_walked_over() -> None:
    walked = []

    def once() -> Iterator[Tensor]:
        for batch in DATA:
            walked.append(batch)
            yield batch

    calibration = Calibration(once())
    calibration.first(_program())
    assert (len(walked), calibration.known) == (1, 0)
    first, second = calibration.batches(_program()), calibration.batches(_program())
    assert _equal([next(first), next(second), next(second), next(first)], [(DATA[place],) for place in (0, 0, 1, 1)])
    assert len(walked) == 2
    assert _equal(calibration.batches(_program()), [(batch,) for batch in DATA])
    assert (len(walked), calibration.known, len(calibration)) == (3, 3, 3)


def test_a_generator_that_failed_does_not_end_early_the_next_time() -> None:
    def failing() -> Iterator[Tensor]:
        yield DATA[0]
        raise OSError("the disk is gone")

    calibration = Calibration(failing())
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            list(calibration.batches(_program()))
    assert torch.equal(calibration.first(_program())[0], DATA[0])


def test_a_loader_that_cannot_tell_its_length_is_counted() -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(DATA)

    calibration = Calibration(DataLoader(Stream(), batch_size=None))
    assert calibration.known == 0
    assert len(calibration) == 3


def test_a_spooled_tensor_is_the_value_at_its_time() -> None:
    def reusing() -> Iterator[Tensor]:
        buffer = torch.zeros(2, 3)
        for value in (1.0, 2.0):
            yield buffer.fill_(value)

    assert [float(x.max()) for (x,) in Calibration(reusing()).batches(_program())] == [1.0, 2.0]


def test_one_tensor_may_be_given_for_two_inputs_and_views_may_be_spooled() -> None:
    x = torch.arange(6.0).reshape(3, 2).T
    calibration = Calibration(_once([(x, x), (x[:1], x[1:])]))
    assert _equal(calibration.batches(_two_inputs()), [(x, x), (x[:1], x[1:])])


def test_more_than_ten_inputs_keep_their_order() -> None:
    class Eleven(nn.Module):
        def forward(self, *xs: Tensor) -> Tensor:
            return torch.stack(xs).sum(0)

    program = capture(Eleven(), tuple(torch.zeros(2) for _ in range(11)))
    (batch,) = Calibration(_once([tuple(torch.full((2,), float(place)) for place in range(11))])).batches(program)
    assert [float(x[0]) for x in batch] == list(range(11))


def test_integers_are_calibration_data_too() -> None:
    program = captured(torch.bitwise_not, 1, 3, dtype=torch.int64)
    (batch,) = Calibration([np.array([[0, 1, 4]])]).batches(program)
    assert torch.equal(batch[0], torch.tensor([[0, 1, 4]]))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (torch.zeros(2, 3), "calibration is a Tensor; pass an iterable of input tuples"),
        (7, "calibration is a int; pass an iterable of input tuples"),
    ],
)
def test_what_is_no_set_of_batches_is_an_error_at_once(batches: Any, message: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        Calibration(batches)
    assert str(caught.value) == message


FITS = torch.zeros(2, 3)
UNUSABLE = [
    ([], "calibration holds no batch; pass at least one tuple of inputs"),
    ([torch.full((2, 3), float("nan"))], "calibration batch 0, input 'x': holds NaN or infinity; remove or repair the sample"),
    ([FITS, torch.full((2, 3), float("-inf"))], "calibration batch 1, input 'x': holds NaN or infinity; remove or repair the sample"),
    ([FITS, torch.zeros(2, 4)], "calibration batch 1, input 'x': dimension 1 is 4, expected 3; pass a tensor x: float32[batch, 3]"),
    ([torch.zeros(3)], "calibration batch 0, input 'x': shape [3] has 1 dimensions; pass a tensor x: float32[batch, 3]"),
    ([torch.zeros(2, 3).double()], "calibration batch 0, input 'x': dtype is torch.float64, expected torch.float32; "),
    ([np.zeros((2, 3))], "calibration batch 0, input 'x': dtype is torch.float64, expected torch.float32; "),
    ([(FITS, FITS)], "calibration batch 0: 2 inputs given, 1 expected; pass x: float32[batch, 3]"),
    ([()], "calibration batch 0: 0 inputs given, 1 expected; pass x: float32[batch, 3]"),
    ([{"x": FITS}], "calibration batch 0: is a dict; pass a tuple of tensors, one for each input"),
    ([3.0], "calibration batch 0: is a float; pass a tuple of tensors, one for each input"),
    ([None], "calibration batch 0: is a NoneType; pass a tuple of tensors, one for each input"),
    ("path/to/images", "calibration batch 0: is a str; pass a tuple of tensors, one for each input"),
    ([("image.png",)], "calibration batch 0: holds what is no tensor: "),
    ([(FITS,), (None,)], "calibration batch 1: holds what is no tensor: "),
    ([np.array([object()])], "calibration batch 0: holds what is no tensor: "),
]


@pytest.mark.parametrize("spooled", [False, True], ids=["list", "generator"])
@pytest.mark.parametrize(("batches", "message"), UNUSABLE)
def test_a_batch_that_does_not_fit_is_named(batches: list[Any], message: str, spooled: bool) -> None:
    with pytest.raises(CalibrationError) as caught:
        list(Calibration(_once(batches) if spooled else batches).batches(_program()))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_first_batch_is_checked_alone() -> None:
    calibration = Calibration([FITS, torch.zeros(2, 4)])
    assert torch.equal(calibration.first(_program())[0], FITS)
    with pytest.raises(CalibrationError, match="calibration holds no batch"):
        Calibration([]).first(_program())
