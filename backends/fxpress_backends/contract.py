"""Backend, Target, Artifact: a verified Program goes in, a folder that runs anywhere comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from fxpress_ir import Program
from numpy.typing import NDArray

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Target:
    """A place where a program can run, with its card.

    Attributes:
        name: as users write it, ``onnx:int``.
        description: one line for the table of targets.
        stages: the program stages that it takes.
        storage: how 8-bit signed activations are stored, ``s8`` or ``u8+128``.
        accumulator_bits: width of integer accumulators.
        features: instruction sets or runtimes that it uses, for the card.
        runs_here: whether this kind of machine runs its artifacts; those of others are made here and run there.
    """

    name: str
    description: str
    stages: tuple[str, ...]
    storage: str = "s8"
    accumulator_bits: int = 32
    features: tuple[str, ...] = ()
    runs_here: bool = True


@dataclass(frozen=True)
class Refusal:
    """Why a backend cannot take a node: the node, the reason and the way on."""

    node: str
    reason: str
    way_on: str = ""


class Runner(Protocol):
    """A loaded payload."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """Execute once; inputs already hold to the signature."""
        ...


class Backend(Protocol):
    """One room: says what it cannot take before any work, writes a payload, loads it back."""

    def targets(self) -> tuple[Target, ...]: ...

    def legalize(self, program: Program, target: Target) -> tuple[Refusal, ...]:
        """Every reason why `target` cannot take the program; empty when it can."""
        ...

    def lower(self, program: Program, target: Target, folder: Path) -> Mapping[str, Any]:
        """Write the payload's files into `folder`; returns what to record in the manifest under ``details`` (JSON)."""
        ...

    def load(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]) -> Runner:
        """Open a payload whose hashes were checked; ``options`` are the runtime's (threads, providers)."""
        ...


@runtime_checkable
class Tunable(Protocol):
    """A backend that can time kernels on this machine and choose between them."""

    def lower_tuned(self, program: Program, target: Target, folder: Path, sizes: Mapping[str, int]) -> Mapping[str, Any]:
        """As `Backend.lower`, with the kernels that are fastest at these sizes of dynamic dimensions."""
        ...


@dataclass(frozen=True)
class Call:
    """One call of a kernel within a run.

    Attributes:
        name: the runtime's.
        seconds: of each run.
        inputs, outputs: the runtime's names of the values, where it has any.
    """

    name: str
    seconds: tuple[float, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class Recorder(Protocol):
    """A loaded payload whose runs are watched kernel by kernel."""

    def run(self) -> None:
        """Execute once."""
        ...

    def calls(self) -> tuple[Call, ...]:
        """The calls of a run, in order; to be asked once, after the last run."""
        ...


@runtime_checkable
class Profiled(Protocol):
    """A backend that can say which of a program's nodes are computed together, and watch its runtime compute them."""

    def groups(self, program: Program, target: Target, sizes: Mapping[str, int]) -> tuple[tuple[tuple[str, ...], str], ...]:
        """Names of nodes that are computed together, and a signature; neither compiled nor run.

        Groups with equal signatures do the same work on memory of the same sizes, whatever the values of constants. A signature is
        the kind of kernel, a colon and a digest.

        Args:
            sizes: of all dynamic dimensions.

        Raises:
            BackendError: the target's kernels cannot be told apart.
        """
        ...

    def owners(self, program: Program, target: Target, calls: Sequence[Call]) -> tuple[tuple[int, ...], ...]:
        """For each call the positions in `groups` of those that it computes, or parts of them; none for what the runtime does itself."""
        ...

    def recorder(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any], inputs: Sequence[NDArray[Any]]) -> Recorder:
        """Open a payload as `Backend.load` does, to be run on `inputs`."""
        ...


@runtime_checkable
class SparseStorage(Protocol):
    """A backend that can store weights as bitmasks and values, and expand them when a payload is opened."""

    def lower_sparse(self, program: Program, target: Target, folder: Path, sizes: Mapping[str, int] | None) -> Mapping[str, Any]:
        """As `Backend.lower`, or where there are sizes, which only a `Tunable` gets, as `lower_tuned`.

        Tensors that take fewer bytes so go to a file of their own, which ``apart`` in the details describes. The outputs stay the
        same bits.
        """
        ...


@dataclass(frozen=True)
class Measured:
    """Quality that a caller measured on the artifact and wants recorded in its manifest."""

    name: str
    value: float
    data: str = field(default="")


def as_array(value: Any) -> NDArray[Any]:
    """A NumPy view of an array or a CPU tensor."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
