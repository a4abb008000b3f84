"""Every error is one line, ``where: what; way on``; the rest goes into notes."""

from __future__ import annotations

import inspect

import pytest
from fxpress_ir import errors
from fxpress_ir.errors import FxpressError, PassError, RefusalError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FxpressError)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_one_line_whatever_its_parts_hold(kind: type[FxpressError]) -> None:
    error = kind("two\nlines \t and  spaces\r\n", where="conv\n1", way_on="do\nthis")
    assert str(error) == "conv 1: two lines and spaces; do this"
    assert (error.what, error.where, error.way_on) == ("two lines and spaces", "conv 1", "do this")
    assert kind.__doc__


@pytest.mark.parametrize(
    ("where", "way_on", "expected"),
    [("", "", "what"), ("here", "", "here: what"), ("", "go", "what; go"), ("here", "go", "here: what; go")],
)
def test_empty_parts_leave_no_trace(where: str, way_on: str, expected: str) -> None:
    assert str(FxpressError("what", where=where, way_on=way_on)) == expected


def test_notes_do_not_enter_the_message() -> None:
    error = FxpressError("what")
    error.add_note("a graph\nof many lines")
    assert str(error) == "what"


def test_a_refusal_is_an_error_of_its_pass() -> None:
    assert issubclass(RefusalError, PassError)
    assert all(kind.__mro__[-3] is Exception or issubclass(kind, FxpressError) for kind in KINDS)
