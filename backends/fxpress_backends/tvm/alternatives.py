"""group of a plan ==> groups that compute the same: with tiles of other sizes, or with prefetches; only times decide between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .nibbles import NIBBLE_REGISTERS
from .pack import LANES
from .physical import Group, Plan
from .tile import AVX2_REGISTERS, REGISTERS, image_tiles, matrix_tiles

Alternatives = Callable[[Plan, Group], list[Group]]
"""All of a group's alternatives, itself first; none where it has no other."""

PREFETCHES = ((4, 0), (16, 0), (0, 1), (16, 1))
"""Steps ahead of weights (a step takes some 10 cycles: into the second level of cache, into the third), tiles ahead of inputs."""


def tiles(plan: Plan, group: Group) -> list[Group]:
    """Its own tile, and others that fit the registers."""
    if group.kernel not in _TILES:
        return []
    own = list(group.attributes["tile"])
    found = [own, *(tile for tile in _TILES[group.kernel](plan, group) if tile != own)]
    return [replace(group, attributes={**group.attributes, "tile": tile}) for tile in found]


def prefetches(plan: Plan, group: Group) -> list[Group]:
    """As it is, and with prefetches."""
    if group.kernel not in _TILES:
        return []
    return [group, *(with_prefetch(group, *ahead) for ahead in PREFETCHES)]


def with_prefetch(group: Group, steps: int, tiles: int) -> Group:
    """The group with the setting that `kernels.prefetch` reads."""
    return replace(group, attributes={**group.attributes, "prefetch": [steps, tiles]})


def _image_tiles(plan: Plan, group: Group) -> list[list[int]]:
    output = plan.buffers[group.output]
    channels = group.attributes.get("group_outputs", output.channels)
    return [list(tile) for tile in image_tiles(*output.pixels, channels // LANES, _registers(plan, group))]


def _matrix_tiles(plan: Plan, group: Group) -> list[list[int]]:
    found = matrix_tiles(plan.buffers[group.output].channels // LANES, _registers(plan, group))
    return [list(tile) for tile in found]


def _registers(plan: Plan, group: Group) -> int:
    if group.kernel.endswith("_avx2"):
        return AVX2_REGISTERS[plan.buffers[group.inputs[0]].dtype]
    return NIBBLE_REGISTERS if group.kernel == "linear_nibbles" else REGISTERS


_TILES: Mapping[str, Callable[[Plan, Group], list[list[int]]]] = {
    "conv2d_avx2": _image_tiles,
    "conv2d_vnni": _image_tiles,
    "linear_avx2": _matrix_tiles,
    "linear_nibbles": _matrix_tiles,
    "linear_vnni": _matrix_tiles,
    "linear_pairs": _matrix_tiles,
}
