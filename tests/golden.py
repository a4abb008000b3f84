"""Text ==> a golden file that it has to equal; ``UPDATE_GOLDEN=1`` writes the file instead, for a reviewer to read."""

from __future__ import annotations

import os
from pathlib import Path


def assert_golden(text: str, test_file: str, name: str) -> None:
    """Compare with ``golden/<test file>/<name>.txt`` beside the test file, exactly.

    Args:
        text: what the code printed, without a final newline.
        test_file: the test's ``__file__``.
        name: the golden's name.
    """
    source = Path(test_file)
    golden = source.parent / "golden" / source.stem / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(f"{text}\n")
    assert golden.is_file(), f"no golden {golden.name}; write it with UPDATE_GOLDEN=1 and read it"
    assert f"{text}\n" == golden.read_text()
