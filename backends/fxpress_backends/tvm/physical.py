"""A physical plan as data: where each tensor lies, and which kernel computes it from which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from numpy.typing import NDArray

NO_HALO = (0, 0, 0, 0)


@dataclass(frozen=True)
class Lead:
    """The size of dimension 0: a number, or a multiple of a dimension that stays symbolic."""

    factor: int
    symbol: str | None = None

    def __str__(self) -> str:
        if self.symbol is None:
            return str(self.factor)
        return self.symbol if self.factor == 1 else f"{self.factor}*{self.symbol}"


@dataclass(frozen=True)
class Buffer:
    """A tensor in memory.

    Attributes:
        name: of the node whose value it holds.
        lead, shape: the logical shape ``[lead, *shape]``, in the program's order (NCHW).
        layout: ``NHWC``, or ``rows`` for row-major.
        channels: elements of the innermost physical dimension; those beyond the logical ones hold anything.
        halo: rows and columns of the zero point around an image: top, left, bottom, right (NHWC only).
        dtype: of the storage.
        zero: what the storage holds for the integer 0.
    """

    name: str
    lead: Lead
    shape: tuple[int, ...]
    layout: str
    channels: int
    halo: tuple[int, int, int, int]
    dtype: str
    zero: int = 0

    @property
    def logical_channels(self) -> int:
        return self.shape[0] if self.layout == "NHWC" else self.shape[-1]

    @property
    def outer(self) -> tuple[int, ...]:
        """The logical dimensions between the first and the innermost physical one."""
        return self.shape[1:] if self.layout == "NHWC" else self.shape[:-1]

    @property
    def middle(self) -> tuple[int, ...]:
        """The physical dimensions between the first and the innermost one; an image of one position has none."""
        if self.layout == "rows":
            return self.shape[:-1]
        top, left, bottom, right = self.halo
        padded = (self.shape[1] + top + bottom, self.shape[2] + left + right)
        return () if padded == (1, 1) else padded

    @property
    def row_major(self) -> bool:
        """The order of elements in memory is the logical one."""
        return self.layout == "rows" or self.middle == ()

    @property
    def image_elements(self) -> int:
        """Stored elements for each index of dimension 0."""
        return prod(self.middle) * self.channels

    def __str__(self) -> str:
        stored = ", ".join(map(str, (self.lead, *self.middle, self.channels)))
        parts = [f"{self.dtype}[{stored}]"]
        parts += [f"{self.layout} of [{', '.join(map(str, (self.lead, *self.shape)))}]"] if self.layout == "NHWC" else []
        parts += [f"halo {' '.join(map(str, self.halo))}"] if self.halo != NO_HALO else []
        parts += [f"zero point {self.zero}"] if self.zero else []
        return f"{self.name}: {', '.join(parts)}"


@dataclass(frozen=True)
class Group:
    """One kernel call: what it reads and writes, its constants, its parameters and the nodes that it computes."""

    kernel: str
    inputs: tuple[str, ...]
    output: str
    constants: tuple[str, ...]
    attributes: Mapping[str, Any]
    nodes: tuple[str, ...]
    why: str = ""
    """Why this kernel and not a faster one."""

    def __str__(self) -> str:
        settings = " ".join(f"{key}={_setting(value)}" for key, value in self.attributes.items())
        line = f"{self.output} = {self.kernel}({', '.join((*self.inputs, *self.constants))})"
        return line + (f" {settings}" if settings else "") + (f" ; {self.why}" if self.why else "")


def _setting(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class Plan:
    """A whole program: buffers by name, groups in order of execution, constants by name."""

    target: str
    inputs: tuple[str, ...]
    buffers: Mapping[str, Buffer]
    groups: tuple[Group, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, NDArray[Any]]

    def __str__(self) -> str:
        lines = [f"plan for {self.target}"]
        lines += [f"  {buffer}" for buffer in self.buffers.values()]
        lines += [f"  %{name}: {array.dtype}[{', '.join(map(str, array.shape))}]" for name, array in self.constants.items()]
        lines += [f"  {group}" for group in self.groups]
        lines.append(f"  {', '.join(self.inputs)} -> {', '.join(self.outputs)}")
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        """The plan as plain data for JSON; constants by type only."""
        return {
            "target": self.target,
            "inputs": list(self.inputs),
            "buffers": [asdict(buffer) for buffer in self.buffers.values()],
            "groups": [{**asdict(group), "attributes": dict(group.attributes)} for group in self.groups],
            "outputs": list(self.outputs),
            "constants": {name: [str(array.dtype), *map(int, array.shape)] for name, array in self.constants.items()},
        }
