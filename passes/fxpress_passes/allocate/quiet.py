"""What C code prints to standard output ==> standard error, so that machines can read ours."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """While it lasts, the process's standard output is its standard error, for all threads."""
    c = ctypes.CDLL(None)
    sys.stdout.flush()
    c.fflush(None)
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        c.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
