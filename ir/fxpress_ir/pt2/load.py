"""archive ==> a clean archive in memory, which torch may load: no pickle, no guards, only checked strings."""

from __future__ import annotations

import json
import logging
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from os import PathLike
from pathlib import Path
from typing import Any

from torch._export.serde import schema
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2 as load_trusted

from ..errors import CaptureError
from .archive import CONFIGS, MODEL, PAYLOADS, SAMPLE, Archive, opened
from .model import AGAIN, held


def load_pt2(path: str | PathLike[str]) -> ExportedProgram:
    """Open a file that ``torch.export.save`` wrote; nothing that it says is run, unpickled or imported.

    Example inputs, guards and most metadata are left behind; containers other than tuples, lists and dicts come back as
    tuples. While loading, memory holds the weights twice.

    Raises:
        CaptureError: no such file; no archive of torch.export; damaged; it holds a pickle, compiled code, another
            device's tensors, or text that torch.export does not write. The message names the member or the field.
    """
    with opened(Path(path)) as archive:
        clean = _clean(archive)
        try:
            with _silent():
                return load_trusted(clean).exported_programs["model"]
        except Exception as error:  # torch raises whatever its layers raise on data that contradict each other
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CaptureError(f"torch cannot load it: {first[:200]}", where=archive.where, way_on=AGAIN) from error


def _clean(archive: Archive) -> BytesIO:
    """The archive written anew from what was checked, example inputs empty."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as written:
        for name, text in (("archive_format", "pt2"), ("archive_version", "0"), (".data/version", "6\n"), (SAMPLE, "")):
            written.writestr(f"model/{name}", text)
        written.writestr(f"model/{MODEL}", json.dumps(held(schema.ExportedProgram, _json(archive, MODEL), f"{archive.where}, {MODEL}")))
        for folder, name in CONFIGS.items():
            config = held(schema.PayloadConfig, _json(archive, name), f"{archive.where}, {name}")
            for tensor, payload in config["config"].items():
                _check_payload(archive, folder, tensor, payload)
            written.writestr(f"model/{name}", json.dumps(config))
            for payload in sorted({payload["path_name"] for payload in config["config"].values()}):
                with written.open(f"model/{folder}{payload}", "w", force_zip64=True) as target:
                    for chunk in archive.chunks(f"{folder}{payload}"):
                        target.write(chunk)
    buffer.seek(0)
    return buffer


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise CaptureError("is no JSON", where=f"{archive.where}, {name}", way_on=AGAIN) from error


def _check_payload(archive: Archive, folder: str, tensor: str, payload: dict[str, Any]) -> None:
    where, name = f"{archive.where}, tensor {tensor!r}", payload.get("path_name", "")
    if payload.get("use_pickle") is not False or payload.get("tensor_meta") is None:
        raise CaptureError("is stored as a pickle", where=where, way_on=f"{AGAIN}, from contiguous plain tensors")
    if PAYLOADS[folder].fullmatch(name) is None:
        raise CaptureError(f"is stored as {name[:40]!r}, which is no plain tensor", where=where, way_on=AGAIN)
    size, shape = archive.size(f"{folder}{name}"), [part.get("as_int", -1) for part in payload["tensor_meta"].get("sizes", [{}])]
    if size is None or min(shape, default=0) < 0 or (size == 0 and math.prod(shape) > 0):
        raise CaptureError("its bytes are not in the file", where=where, way_on=f"{AGAIN}, from real tensors")


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch's own reports off the terminal; they stay in the exception."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(level)
