"""A physical plan as data: where each tensor lies, and which kernel computes it from which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from .sizes import Extent, Size, dimensions, padded

NO_HALO = (0, 0, 0, 0)
FUNCTION, RESULT = "island", "result"
"""No kernels: the call of a float island's function, and one of the values that it gives, which may have any shape."""


@dataclass(frozen=True)
class Buffer:
    """A tensor in memory.

    Attributes:
        name: of the node whose value it holds.
        lead, shape: the logical shape ``[lead, *shape]``, in the program's order (NCHW).
        layout: ``NHWC``, or ``rows`` for row-major.
        innermost: elements of the innermost physical dimension; those beyond the logical ones hold anything.
        halo: rows and columns of the zero point around an image: top, left, bottom, right (NHWC only).
        dtype: of the storage.
        zero: what the storage holds for the integer 0.
    """

    name: str
    lead: Extent
    shape: tuple[Extent, ...]
    layout: str
    innermost: Extent
    halo: tuple[int, int, int, int]
    dtype: str
    zero: int = 0

    @property
    def channels(self) -> int:
        """`innermost` of a tensor whose channels are a number."""
        assert isinstance(self.innermost, int), f"{self.name} has {self.innermost} channels"
        return self.innermost

    @property
    def logical_innermost(self) -> Extent:
        return self.shape[0] if self.layout == "NHWC" else self.shape[-1]

    @property
    def logical_channels(self) -> int:
        """`logical_innermost` of a tensor whose channels are a number."""
        assert isinstance(self.logical_innermost, int), f"{self.name} has {self.logical_innermost} channels"
        return self.logical_innermost

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of an image; they are numbers."""
        height, width = self.shape[1:]
        assert isinstance(height, int), self.layout
        assert isinstance(width, int), self.layout
        return height, width

    @property
    def outer(self) -> tuple[Extent, ...]:
        """The logical dimensions between the first and the innermost physical one."""
        return self.shape[1:] if self.layout == "NHWC" else self.shape[:-1]

    @property
    def middle(self) -> tuple[Extent, ...]:
        """The physical dimensions between the first and the innermost one; an image of one position has none."""
        if self.layout == "rows":
            return self.shape[:-1]
        (height, width), (top, left, bottom, right) = self.pixels, self.halo
        stored = (height + top + bottom, width + left + right)
        return () if stored == (1, 1) else stored

    @property
    def sizes(self) -> tuple[Extent, ...]:
        """The physical dimensions."""
        return (self.lead, *self.middle, self.innermost)

    @property
    def row_major(self) -> bool:
        """The order of elements in memory is the logical one."""
        return self.layout == "rows" or self.middle == ()

    @property
    def order(self) -> tuple[int, ...]:
        """The logical dimensions in the order in which they lie in memory, the innermost last."""
        return (0, 2, 3, 1) if self.layout == "NHWC" else tuple(range(1 + len(self.shape)))

    def with_channels(self, count: int, multiple: int) -> Buffer:
        """The same positions with `count` channels, stored as a multiple."""
        shape = (count, *self.shape[1:]) if self.layout == "NHWC" else (*self.shape[:-1], count)
        return replace(self, shape=shape, innermost=padded(count, multiple))

    def __str__(self) -> str:
        stored = ", ".join(map(str, self.sizes))
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
    if not isinstance(value, (list, tuple)):
        return str(value)
    parts = list(map(_setting, value))
    return f"[{' '.join(parts)}]" if any(isinstance(item, (list, tuple)) for item in value) else "x".join(parts)


def _plain(data: Any) -> Any:
    """Sizes as text; everything else as it is."""
    if isinstance(data, Size):
        return str(data)
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    return {key: _plain(item) for key, item in data.items()} if isinstance(data, Mapping) else data


@dataclass(frozen=True)
class Plan:
    """A whole program: buffers by name, groups in order of execution, constants by name."""

    target: str
    inputs: tuple[str, ...]
    buffers: Mapping[str, Buffer]
    groups: tuple[Group, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, NDArray[Any]]

    def symbols(self, group: Group) -> tuple[str, ...]:
        """The dimensions that a group's kernel has to know."""
        buffers = [self.buffers[name] for name in (*group.inputs, group.output)]
        extents = [[buffer.lead, buffer.shape, buffer.innermost] for buffer in buffers]
        return tuple(sorted({*dimensions(extents), *dimensions(list(group.attributes.values()))}))

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
            "buffers": [_plain(vars(buffer)) for buffer in self.buffers.values()],
            "groups": [_plain(vars(group)) for group in self.groups],
            "outputs": list(self.outputs),
            "constants": {name: [str(array.dtype), *map(int, array.shape)] for name, array in self.constants.items()},
        }
