"""What C code prints goes to standard error, what Python prints around it stays where it is."""

from __future__ import annotations

import ctypes
import os

import pytest
from fxpress_passes.allocate.quiet import printing_to_stderr


def test_c_prints_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with printing_to_stderr():
        ctypes.CDLL(None).puts(b"from C")
    print("after", flush=True)
    out, err = capfd.readouterr()
    assert out.split() == ["before", "after"]
    assert err == "from C\n"


def test_standard_output_is_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with printing_to_stderr():
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    os.write(1, b"here")
    assert capfd.readouterr().out == "here"
