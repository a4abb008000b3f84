"""verified Program ==> a folder that runs without the model's class: manifest, certificate and payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fxpress_ir import Certificate, InputSpec, Program, verify
from fxpress_ir.errors import ArtifactError, BackendError, InputError
from fxpress_ir.portable import in_steps, read_signature, signature
from fxpress_ir.signature import steps_text
from numpy.typing import NDArray

from . import conformance
from . import folder as folders
from . import manifest as manifests
from .contract import Arrays, Backend, Measured, Refusal, Runner, SparseStorage, Target, Tunable, as_array
from .registry import BACKENDS, Entry, Registry, find, targets

CERTIFICATE = "certificate.json"


@dataclass(frozen=True, eq=False)
class Artifact:
    """A lowered program; its payload is opened at the first run.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself, as plain data.
        inputs: the signature.
        options: what the runtime is opened with (threads, providers).
    """

    folder: Path
    manifest: Mapping[str, Any]
    inputs: tuple[InputSpec, ...]
    options: Mapping[str, Any]
    _backend: Backend = field(repr=False)
    _opened: list[tuple[dict[str, Any], Runner]] = field(init=False, repr=False, default_factory=list)

    @property
    def target(self) -> str:
        """The target's name."""
        return str(self.manifest["target"])

    @cached_property
    def size(self) -> int:
        """Bytes of all files."""
        return (self.folder / manifests.NAME).stat().st_size + sum(int(entry["size"]) for entry in self.manifest["files"].values())

    @property
    def payload_size(self) -> int:
        """Bytes of what the runtime reads."""
        return sum(int(entry["size"]) for name, entry in self.manifest["files"].items() if name not in (CERTIFICATE, conformance.FILE))

    def __str__(self) -> str:
        return f"{self.target} artifact {self.folder}: ({', '.join(map(str, self.inputs))}) -> {self.output_text}, {self.size} bytes"

    @property
    def output_text(self) -> str:
        """Types and shapes of the outputs, as a signature prints those of inputs."""
        outputs = self.manifest["outputs"]
        return ", ".join(
            f"{output['dtype']}[{', '.join(map(str, output['shape']))}]{steps_text(output.get('scale'))}" for output in outputs
        )

    @property
    def output_scales(self) -> tuple[float | None, ...]:
        """For each output, where its integers stand for real numbers, the real number that one step is."""
        return tuple(output.get("scale") for output in self.manifest["outputs"])

    def check_inputs(self, values: Sequence[Any]) -> Arrays:
        """`values` (NumPy arrays or CPU tensors) as arrays that fit the signature.

        Raises:
            InputError: wrong count, shape or dtype; a non-finite value where floats enter an integer program.
        """
        if len(values) != len(self.inputs):
            names = ", ".join(map(str, self.inputs))
            raise InputError(f"{len(values)} inputs given, {len(self.inputs)} expected", way_on=f"pass {names}")
        sizes: dict[str, int] = {}
        return tuple(self._checked(spec, value, sizes) for spec, value in zip(self.inputs, values, strict=True))

    def _checked(self, spec: InputSpec, value: Any, sizes: dict[str, int]) -> NDArray[Any]:
        where, way_on = f"input {spec.name!r}", f"pass an array {spec}"
        try:
            array = np.asarray(as_array(value), order="C")
            dtype = _torch_dtype(array.dtype)
        except (TypeError, ValueError) as error:
            raise InputError(f"a {type(value).__name__} that is no array of numbers", where=where, way_on=way_on) from error
        spec.check(array.shape, dtype, sizes)
        if self.manifest["stage"] == "integer" and dtype.is_floating_point and not np.isfinite(array).all():
            raise InputError("holds NaN or infinity", where=where, way_on="an integer has no such value")
        return array

    def run(self, *values: Any, **options: Any) -> Arrays:
        """Execute once.

        Args:
            values: NumPy arrays or CPU tensors, as in `inputs`.
            options: the runtime's (``providers=[...]``), over those that the artifact was loaded with; other options
                than last time open the payload anew.

        Returns:
            The outputs, shapes and dtypes as in the manifest.

        Raises:
            InputError: an input does not fit the signature.
            BackendError: the runtime does not take the options.
        """
        return self._runner({**self.options, **options}).run(self.check_inputs(values))

    def _runner(self, options: dict[str, Any]) -> Runner:
        if not self._opened or self._opened[0][0] != options:
            self._opened[:] = [(options, self._backend.load(self.folder, self.manifest, options))]
        return self._opened[0][1]


@cache
def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def lower(
    program: Program,
    target: str,
    out: str | PathLike[str],
    *,
    registry: Registry = BACKENDS,
    measured: Sequence[Measured] = (),
    recipe: str = "",
    seed: int | None = None,
    tune: Mapping[str, int] | None = None,
    sparse: bool = False,
) -> Artifact:
    """Write `program` for `target` into the folder `out`, which appears whole or not at all.

    The same program, target, recipe, seed and versions give the same bytes. An artifact that stands at `out` is
    replaced; missing parent folders are made.

    Args:
        target: a target's name, ``onnx:int``.
        measured: quality to record in the manifest.
        recipe, seed: what the program was made with, to record.
        tune: sizes of dynamic dimensions, ``{"batch": 1}``, at which kernels are timed on this machine and the fastest taken, never
            one that measures slower; the least size where none is given, so that ``{}`` will do. The table of times stands in the
            manifest. Another run may choose otherwise, so that the bytes are no function of the program alone; the outputs stay
            the same bits.
        sparse: store weights with many zeros as bitmasks and values, expanded when the payload is opened: fewer bytes of disk, no
            claim of speed. A weight that is no smaller so stays as it is; ``details.apart`` in the manifest lists the others.

    Raises:
        BackendError: the target is unknown or cannot take the program; the message names the first node, notes the rest. With
            `tune`: it has no kernels to choose between, or runs elsewhere. With `sparse`: it cannot store weights so.
        VerifyError: the program breaks a rule of its stage.
        ArtifactError: `out` cannot be written, or holds something that is not an artifact.
    """
    entry, card = find(target, registry)
    if program.stage not in card.stages:
        message = f"takes {' and '.join(card.stages)} programs, this one is {program.stage}"
        takers = ", ".join(other.name for other in targets(registry) if program.stage in other.stages)
        way_on = f"{takers} take it" if takers else "`fxpress targets` says what each target takes"
        raise BackendError(message, where=f"target {target!r}", way_on=way_on)
    certificate = verify(program)
    backend = entry.backend()
    _check_taken(backend.legalize(program, card), target)
    for quality in measured:
        if not isfinite(quality.value):
            raise ArtifactError(f"measured {quality.name!r} is {quality.value}", way_on="record finite numbers")
    place = Path(out).resolve()
    folders.check_place(place)
    with folders.whole(place) as folder:
        tunable = None if tune is None else _tunable(backend, target)
        if sparse:
            details = _storing(backend, target).lower_sparse(program, card, folder, tune)
        elif tune is None or tunable is None:
            details = backend.lower(program, card, folder)
        else:
            details = tunable.lower_tuned(program, card, folder, tune)
        (folder / CERTIFICATE).write_bytes(manifests.canonical(asdict(certificate)))
        record = _record(program, card, certificate, entry)
        quality_record = {"measured": [asdict(quality) for quality in measured], "recipe": recipe, "seed": seed}
        vectors = conformance.write(program, folder)
        record |= {**quality_record, "details": dict(details), "conformance": vectors, "files": folders.inventory(folder)}
        (folder / manifests.NAME).write_bytes(manifests.seal(record))
    return load(out, registry=registry)


def _tunable(backend: Backend, target: str) -> Tunable:
    if not isinstance(backend, Tunable):
        raise BackendError("has no kernels to choose between", where=f"target {target!r}", way_on="lower without tune")
    return backend


def _storing(backend: Backend, target: str) -> SparseStorage:
    if not isinstance(backend, SparseStorage):
        raise BackendError("has no sparse storage", where=f"target {target!r}", way_on="lower without sparse")
    return backend


def _check_taken(refusals: Sequence[Refusal], target: str) -> None:
    if not refusals:
        return
    error = BackendError(refusals[0].reason, where=f"target {target!r}, {refusals[0].node}", way_on=refusals[0].way_on)
    for refusal in refusals[1:]:
        error.add_note(f"{refusal.node}: {refusal.reason}" + (f"; {refusal.way_on}" if refusal.way_on else ""))
    raise error


def _record(program: Program, target: Target, certificate: Certificate, entry: Entry) -> dict[str, Any]:
    outputs = [
        {"dtype": str(node.meta["val"].dtype).removeprefix("torch."), "shape": list(program.shape_of(node)), **in_steps(scale)}
        for node, scale in zip(program.outputs(), program.output_steps(), strict=True)
    ]
    return {
        "target": target.name,
        "stage": program.stage,
        "program_hash": certificate.program_hash,
        "inputs": signature(program.inputs),
        "outputs": outputs,
        "history": list(program.history),
        "versions": {name: version(name) for name in ("fxpress", "torch", "numpy", *entry.distributions)},
    }


def load(folder: str | PathLike[str], *, registry: Registry = BACKENDS, **options: Any) -> Artifact:
    """Open an artifact: every byte is held to its hash, no code and no pickle is read.

    Args:
        options: the runtime's, for every run: ``threads=2``, ``providers=[...]``.

    Raises:
        ArtifactError: no artifact, damaged, or changed; the message names the file.
        BackendError: this fxpress does not know its target.
    """
    path = Path(folder).absolute()
    manifest = manifests.read(path)
    try:
        folders.check_inventory(path, manifest["files"])
        inputs, target = read_signature(manifest["inputs"]), str(manifest["target"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError("the manifest is malformed", where=f"artifact {str(path)!r}", way_on="lower the program again") from error
    return Artifact(path, manifest, inputs, options, find(target, registry)[0].backend())
