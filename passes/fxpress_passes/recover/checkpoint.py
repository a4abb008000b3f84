"""leaves, the optimiser's moments, masks and the step <==> one safetensors file in a folder, written whole or not at all."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fxpress_ir.errors import PassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SECONDS = 10.0
"""Between two writings: what a run that is killed may lose."""
_FORMAT, _VERSION = "fxpress-recover", 1


class Checkpoint:
    """The state of one training run, known by a key of all that it depends on; a run of another key has another file.

    Args:
        folder: made when the first is written; "" to keep nothing.
    """

    def __init__(self, folder: str, key: str) -> None:
        self._path = Path(folder, f"recover-{key}.safetensors") if folder else None
        self._last, self._key = time.monotonic(), key

    def read(self) -> tuple[int, dict[str, Tensor]] | None:
        """The steps done and the tensors, None where there are none yet.

        Raises:
            PassError: the file is damaged, or is not what its name says.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["fxpress"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (record["format"], record["format_version"], record["key"]) != (_FORMAT, _VERSION, self._key):
                raise ValueError("another run")
            return int(record["step"]), tensors
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise PassError("is no intact state of this training", where=repr(str(self._path)), way_on="remove it to begin anew") from error

    @property
    def is_due(self) -> bool:
        return self._path is not None and time.monotonic() - self._last >= SECONDS

    def write(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Put this state in the place of the one before.

        Raises:
            PassError: the folder cannot be written.
        """
        if self._path is None:
            return
        fresh = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        record = json.dumps({"format": _FORMAT, "format_version": _VERSION, "key": self._key, "step": step}, sort_keys=True)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, fresh, metadata={"fxpress": record})
            fresh.replace(self._path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise PassError(f"cannot be written: {error}", where=repr(str(self._path.parent)), way_on="name a writable folder") from error
        self._last = time.monotonic()
