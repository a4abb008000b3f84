"""facts and the batches that they come from <==> the bytes of one safetensors file, whose JSON record carries their SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import numpy as np
from fxpress_ir.digest import digest
from fxpress_ir.errors import CalibrationError
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .calibration import Batch
from .histogram import BINS, Histogram
from .range import Range
from .ranges import Fact
from .second_moment import moments_from_arrays, moments_to_arrays
from .spread import Spread
from .tally import tallies_from_arrays, tallies_to_arrays
from .trace import traces_from_arrays, traces_to_arrays

FORMAT, VERSION = "fxpress-calibration", 2
_RECORD = "fxpress"
"""The key of the record in the file's metadata."""
_ANEW = "remove it to measure anew"
_ARRAYS: Mapping[str, tuple[Callable[[Any], dict[str, NDArray[Any]]], Callable[[Any, Any], Mapping[str, Any]]]] = {
    "second_moments": (moments_to_arrays, moments_from_arrays),
    "traces": (traces_to_arrays, traces_from_arrays),
    **dict.fromkeys(("tallies", "eigenvalues"), (tallies_to_arrays, tallies_from_arrays)),
}
"""By kind: facts ==> arrays, and names and arrays ==> facts, for those that hold no range."""


@dataclass(frozen=True, order=True)
class Run:
    """One walk through data: how many batches, and a rolling SHA-256 over the digests of their tensors."""

    batches: int = 0
    digest: str = ""

    def then(self, batch: Batch) -> Run:
        """This walk, one batch further."""
        parts = " ".join([self.digest, *map(digest, batch)])
        return Run(self.batches + 1, hashlib.sha256(parts.encode()).hexdigest())


@dataclass(frozen=True)
class State(Generic[Fact]):
    """What was measured of one program so far.

    Attributes:
        kind: of facts, ``ranges``, ``histograms``, ``second_moments``, ``traces``, ``tallies`` or
            ``eigenvalues``.
        program: its hash.
        found: facts by the names of nodes, of tensors, or by digests of choices.
        runs: the walks that they come from, in order of length; more than one where states were merged.
        complete: the walks went to the end of their data.
        question: as `Measurement` has it.
    """

    kind: str
    program: str
    found: Mapping[str, Fact] = field(default_factory=dict)
    runs: tuple[Run, ...] = (Run(),)
    complete: bool = False
    question: str = ""

    @property
    def batches(self) -> int:
        """How many batches were measured."""
        return sum(run.batches for run in self.runs)


def packed(state: State[Any]) -> bytes:
    """The file's bytes; equal states give equal bytes."""
    arrays = _arrays(state)
    record = {
        "format": FORMAT,
        "format_version": VERSION,
        "kind": state.kind,
        "program": state.program,
        "complete": state.complete,
        "runs": [{"batches": run.batches, "digest": run.digest} for run in state.runs],
        "names": list(state.found),
        **({"question": state.question} if state.question else {}),
    }
    sealed = {**record, "sha256": _sha256(record, arrays)}
    return save(arrays, metadata={_RECORD: json.dumps(sealed, sort_keys=True)})


def unpacked(path: Path) -> State[Any]:
    """The state in a file; nothing in it is executed.

    Raises:
        CalibrationError: the file cannot be read, is damaged, or is no state that this version writes.
    """
    where = f"calibration state {str(path)!r}"
    try:
        with safe_open(path, framework="numpy") as file:
            arrays: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            record = json.loads((file.metadata() or {})[_RECORD])
        found = (record.pop("format"), record.pop("format_version"))
        if found != (FORMAT, VERSION):
            raise CalibrationError(f"its format is {found[0]} {found[1]}, expected {FORMAT} {VERSION}", where=where, way_on=_ANEW)
        sealed = record.pop("sha256")
        if sealed != _sha256({"format": FORMAT, "format_version": VERSION, **record}, arrays):
            raise CalibrationError("is damaged: its SHA-256 is another one", where=where, way_on=_ANEW)
        runs = tuple(Run(int(run["batches"]), str(run["digest"])) for run in record["runs"])
        if not runs:
            raise ValueError("no run")
        facts, question = _facts(record["kind"], record["names"], arrays), str(record.get("question", ""))
        return State(record["kind"], record["program"], facts, runs, bool(record["complete"]), question)
    except OSError as error:
        raise CalibrationError(f"cannot be read: {error.strerror or error}", where=where, way_on="check the folder") from error
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CalibrationError("is no intact calibration state", where=where, way_on=_ANEW) from error


def _sha256(record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    state = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _arrays(state: State[Any]) -> dict[str, NDArray[Any]]:
    facts = list(state.found.values())
    if state.kind in _ARRAYS:
        return _ARRAYS[state.kind][0](facts)
    seen = [fact.seen if isinstance(fact, Histogram) else fact for fact in facts]
    arrays: dict[str, NDArray[Any]] = {
        "low": np.array([range_.low for range_ in seen], np.float64),
        "high": np.array([range_.high for range_ in seen], np.float64),
        **_spreads(seen),
    }
    if state.kind == "histograms":
        arrays["counts"] = np.array([fact.counts for fact in facts], np.int64).reshape(-1, BINS)
        arrays["reach"] = np.array([fact.reach for fact in facts], np.float64)
    return arrays


def _spreads(seen: list[Range]) -> dict[str, NDArray[Any]]:
    """All spreads, one after the other; a range without one has no channels."""
    spreads = [range_.spread for range_ in seen]
    kept = [spread for spread in spreads if spread is not None]
    empty = np.empty(0, np.float64)
    return {
        "rows": np.array([0 if spread is None else spread.count for spread in spreads], np.int64),
        "channels": np.array([0 if spread is None else len(spread.mean) for spread in spreads], np.int64),
        "mean": np.concatenate([empty, *(spread.mean for spread in kept)]),
        "squares": np.concatenate([empty, *(spread.squares for spread in kept)]),
    }


def _spread_of(arrays: Mapping[str, NDArray[Any]]) -> list[Spread | None]:
    """The inverse of `_spreads`."""
    ends = np.cumsum(arrays["channels"])
    columns = (np.split(arrays[part], ends)[:-1] for part in ("mean", "squares"))
    return [Spread(int(count), mean, squares) if count else None for count, mean, squares in zip(arrays["rows"], *columns, strict=True)]


def _facts(kind: str, names: list[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The inverse of `_arrays`; a ValueError where the arrays are none of theirs."""
    if kind in _ARRAYS:
        return dict(_ARRAYS[kind][1](names, arrays))
    wanted: dict[str, Any] = {
        **dict.fromkeys(("low", "high"), (np.dtype(np.float64), (len(names),))),
        **dict.fromkeys(("rows", "channels"), (np.dtype(np.int64), (len(names),))),
        **dict.fromkeys(("mean", "squares"), (np.dtype(np.float64), (int(arrays["channels"].sum()),))),
    }
    if kind == "histograms":
        wanted |= {"counts": (np.dtype(np.int64), (len(names), BINS)), "reach": wanted["low"]}
    if {name: (array.dtype, array.shape) for name, array in arrays.items()} != wanted:
        raise ValueError("arrays of other types or shapes")
    parts = zip(arrays["low"].tolist(), arrays["high"].tolist(), _spread_of(arrays), strict=True)
    ranges = [Range(low, high, spread) for low, high, spread in parts]
    if kind == "ranges":
        return dict(zip(names, ranges, strict=True))
    reaches = arrays["reach"]
    if not (np.isfinite(reaches).all() and (np.frexp(reaches)[0] == 0.5).all()):
        raise ValueError("a reach is no power of two")
    facts = map(Histogram, arrays["counts"], reaches.tolist(), ranges)
    return dict(zip(names, facts, strict=True))
