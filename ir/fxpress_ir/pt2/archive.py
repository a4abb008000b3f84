"""A zip file that torch.export.save wrote ==> its members by name: stored, listed once, all of them known."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import CaptureError
from .model import AGAIN

MODEL, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = {"data/weights/": "data/weights/model_weights_config.json", "data/constants/": "data/constants/model_constants_config.json"}
PAYLOADS = {"data/weights/": re.compile(r"weight_\d+", re.ASCII), "data/constants/": re.compile(r"tensor_\d+", re.ASCII)}
_HOUSEKEEPING = {"archive_format", "archive_version", "byteorder", "version", ".data/version", ".data/serialization_id"}
_ELSEWHERE = {
    "data/aotinductor/": "compiled code",
    "data/weights/": "weights that only a pickle can hold",
    "data/constants/": "constants that only a pickle can hold",
    "models/": "another model",
}
_ENCRYPTED, _CHUNK = 1, 1 << 24


@dataclass(frozen=True)
class Archive:
    """The members of an open archive, by their names below its root folder."""

    where: str
    _file: zipfile.ZipFile
    _members: dict[str, zipfile.ZipInfo]

    def size(self, name: str) -> int | None:
        """Bytes of a member; None where there is none."""
        return self._members[name].file_size if name in self._members else None

    def read(self, name: str) -> bytes:
        """A member's bytes; errors as in `chunks`."""
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """A member's bytes, some MiB at a time.

        Raises:
            CaptureError: it is missing or damaged.
        """
        if name not in self._members:
            raise CaptureError(f"{name} is missing", where=self.where, way_on=AGAIN)
        try:
            with self._file.open(self._members[name]) as member:
                while chunk := member.read(_CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise CaptureError(f"{name} is damaged: {error}", where=self.where, way_on=AGAIN) from error


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive at `path`.

    Raises:
        CaptureError: no readable file; no zip archive; a member that is compressed, listed twice or not known.
    """
    where = f"file {str(path)!r}"
    try:
        if path.is_dir():
            raise CaptureError("is a folder", where=where, way_on="pass a file that torch.export.save wrote")
        length = path.stat().st_size
        with zipfile.ZipFile(path) as file:
            archive = Archive(where, file, _members(file, length, where))
            if archive.size("byteorder") is not None and archive.read("byteorder").decode("ascii", "replace") != sys.byteorder:
                raise CaptureError("was written on a machine of the other byte order", where=where, way_on=AGAIN)
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise CaptureError("is no zip archive, or is cut off", where=where, way_on=AGAIN) from error
    except OSError as error:
        raise CaptureError(f"cannot be read: {error.strerror or error}", where=where, way_on="check the path") from error


def _members(file: zipfile.ZipFile, length: int, where: str) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    if min((info.header_offset for info in file.infolist()), default=-1) != 0:  # a part that is itself a zip file was found
        raise CaptureError("is no zip archive, or is cut off", where=where, way_on=AGAIN)
    for info in file.infolist():
        name = info.filename.partition("/")[2]
        if name in members:
            raise CaptureError(f"lists {name!r} twice", where=where, way_on=AGAIN)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & _ENCRYPTED:
            raise CaptureError(f"{name!r} is compressed or encrypted, torch.export.save stores it", where=where, way_on=AGAIN)
        _check_known(name, where)
        members[name] = info
    if sum(info.file_size for info in members.values()) > length:  # members that share bytes, a zip bomb
        raise CaptureError("claims to hold more bytes than it has", where=where, way_on=AGAIN)
    if MODEL not in members:
        raise CaptureError(f"{MODEL} is missing", where=where, way_on="pass a file that torch.export.save wrote")
    return members


def _check_known(name: str, where: str) -> None:
    if name in {MODEL, SAMPLE, *CONFIGS.values(), *_HOUSEKEEPING} or name.startswith("extra/"):
        return
    if any(name.startswith(folder) and pattern.fullmatch(name[len(folder) :]) for folder, pattern in PAYLOADS.items()):
        return
    what = next((what for folder, what in _ELSEWHERE.items() if name.startswith(folder)), "a member that torch.export.save does not write")
    raise CaptureError(f"{name[:80]!r} is {what}", where=where, way_on=f"{AGAIN}, from contiguous tensors and one program")
