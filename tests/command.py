"""The command line as a user runs it, in this process; what a refusal looks like."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from fxpress.cli import main

Completed = subprocess.CompletedProcess[str]


def fxpress(*arguments: str) -> Completed:
    """The command in this process, because starting another takes seconds."""
    out, err, code = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["fxpress", *arguments])
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Completed(arguments, code, out.getvalue(), err.getvalue())


def refused(result: Completed, *words: str) -> None:
    """Exit code 2 and one line on stderr that holds `words`."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr
