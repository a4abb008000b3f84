"""An affine function ==> the layer or normalisation before it, or the layers after it, whose weights can take it; or why none can."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import SHAPE_OPERATORS, arguments
from torch import fx

from .affine import Affine
from .readers import holders, readers

_aten = torch.ops.aten
LAYERS = frozenset({_aten.linear.default, _aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default})
NORMS = frozenset({_aten.layer_norm.default, _aten.rms_norm.default, _aten.group_norm.default})
TABLES = frozenset({_aten.embedding.default})
KNOWN = LAYERS | NORMS | TABLES
_SPLITS = frozenset({_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default})


@dataclass(frozen=True)
class Place:
    """A run of channels of a layer, of its outputs or of its inputs; `end` None for all."""

    layer: fx.Node
    start: int = 0
    end: int | None = None


def is_near(source: fx.Node, tip: fx.Node) -> bool:
    """A layer, a normalisation or a table is right before `source`, or a layer right after `tip`."""
    part = _part(source)
    return (source if part is None else part[0]).target in KNOWN or any(reader.target in LAYERS for reader in readers(tip))


def before(edit: Edit, source: fx.Node, reader: fx.Node, affine: Affine) -> Place | str:
    """The layer, normalisation or table whose results an affine function alone reads, all of them or those of a slice."""
    value, start, end = source, 0, None
    while value.target in SHAPE_OPERATORS and affine.axis is None and _part(value) is None:
        if len(readers(value)) > 1:
            return _also_read(value, reader)
        value, reader = arguments(value)["self"], value
    part = _part(value)
    if part is not None:
        layer, axis, start, end = part
        if len(readers(value)) > 1:
            return _also_read(value, reader)
        if layer.target not in LAYERS or axis != _outputs(edit, layer) or affine.axis not in (None, axis):
            return f"it follows {value.name}, which is no slice of a layer's outputs"
        overlapping = [user for user in _pieces(layer) if user is not value and _overlaps(user, axis, start, end)]
        if overlapping:
            return f"{_names(overlapping)} reads outputs of {layer.name} that it scales"
        value = layer
    elif len(readers(value)) > 1:
        return _also_read(value, reader)
    return _taking(edit, value, affine) or Place(value, start, end)


def _also_read(value: fx.Node, reader: fx.Node) -> str:
    return f"{value.name} is also read by {_names(user for user in readers(value) if user is not reader)}"


def _taking(edit: Edit, layer: fx.Node, affine: Affine) -> str:
    """Why a layer's weights cannot take an affine function of its results; nothing where they can."""
    if layer.target not in KNOWN:
        return f"it follows {layer.name}, which is no layer"
    named = arguments(layer)
    if not _constant(named["weight"]) or not _constant(named.get("bias")):
        return f"a weight of {layer.name} is computed"
    if affine.axis not in (None, _outputs(edit, layer)):
        return f"it differs along another dimension than the outputs of {layer.name}"
    if layer.target is _aten.rms_norm.default and affine.shifts:
        return f"{layer.name} has no shift"
    if layer.target in TABLES and len(holders(named["weight"])) > 1:
        return f"the table of {layer.name} is read elsewhere too"
    return ""


def _constant(value: fx.Node | None) -> bool:
    return value is None or value.op == "get_attr"


def _outputs(edit: Edit, layer: fx.Node) -> int | None:
    """The dimension of the outputs of a layer, or of what a normalisation has one gain for; None where that is several."""
    rank, named = len(layer.meta["val"].shape), arguments(layer)
    if layer.target is _aten.group_norm.default:
        return 1
    if layer.target in NORMS:
        return rank - 1 if len(named["normalized_shape"]) == 1 else None
    return rank - 1 if layer.target in TABLES else rank - edit.tensor(named["weight"]).dim() + 1


def _part(value: fx.Node) -> tuple[fx.Node, int, int, int] | None:
    """What a slice, or a piece of a split, is taken of; the dimension, the first index and the one after the last."""
    if value.target is _aten.slice.Tensor:
        named = arguments(value)
        source, axis = named["self"], named["dim"] % len(value.meta["val"].shape)
        size, length = source.meta["val"].shape[axis], value.meta["val"].shape[axis]
        numbers = all(isinstance(number, int) for number in (size, length, named["start"] or 0))
        if named["step"] != 1 or not numbers:
            return None
        start = max((named["start"] or 0) + (size if (named["start"] or 0) < 0 else 0), 0)
        return source, axis, start, start + length
    if value.target is operator.getitem and isinstance(value.args[0], fx.Node) and value.args[0].target in _SPLITS:
        split, index = value.args[0], value.args[1]
        named = arguments(split)
        axis = named["dim"] % len(value.meta["val"].shape)
        sizes = [piece.shape[axis] for piece in split.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            return None
        ends = list(accumulate(sizes))
        return named["self"], axis, ends[index] - sizes[index], ends[index]  # type: ignore[index]
    return None


def _pieces(layer: fx.Node) -> list[fx.Node]:
    """What reads a layer's outputs; of a split its pieces."""
    return [piece for user in readers(layer) for piece in (list(user.users) if user.target in _SPLITS else [user])]


def _overlaps(user: fx.Node, axis: int, start: int, end: int) -> bool:
    part = _part(user)
    return part is None or part[1] != axis or (part[2] < end and start < part[3])


@dataclass(frozen=True)
class _Way:
    """A value on the way to layers: what of its channels is scaled, `end` None for all of the value."""

    value: fx.Node
    start: int = 0
    end: int | None = None
    axis: int | None = None


def after(edit: Edit, tip: fx.Node, affine: Affine) -> list[Place] | str:
    """The layers that alone read an affine function, directly or through concatenations, with the input channels that it is."""
    found: list[Place] = []
    waiting = [_Way(tip, axis=affine.axis)]
    while waiting:
        way = waiting.pop()
        for reader in readers(way.value):
            what = _next(edit, way, reader, affine)
            if isinstance(what, str):
                return what
            if isinstance(what, Place):
                found.append(what)
            else:
                waiting.append(what)
    return found or "nothing reads it"


def _next(edit: Edit, way: _Way, reader: fx.Node, affine: Affine) -> Place | _Way | str:
    if reader.target in LAYERS and reader.args[0] is way.value:
        return _taker(edit, way, reader, affine)
    if reader.target is _aten.cat.default:
        return _concatenated(way, reader)
    if reader.target in SHAPE_OPERATORS and affine.axis is None and way.end is None:
        return replace(way, value=reader)
    return f"it is read by {_names([reader])}, which is no layer"


def _taker(edit: Edit, way: _Way, layer: fx.Node, affine: Affine) -> Place | str:
    named = arguments(layer)
    if not _constant(named["weight"]) or not _constant(named["bias"]):
        return f"a weight of {layer.name} is computed"
    if way.axis not in (None, len(way.value.meta["val"].shape) - edit.tensor(named["weight"]).dim() + 1):
        return f"it differs along another dimension than the inputs of {layer.name}"
    if affine.shifts and any(padding != 0 for padding in named.get("padding", [])):
        return f"{layer.name} pads what it shifts"
    return Place(layer, way.start, way.end)


def _concatenated(way: _Way, cat: fx.Node) -> _Way | str:
    named = arguments(cat)
    values, axis = named["tensors"], named["dim"] % len(cat.meta["val"].shape)
    sizes = [value.meta["val"].shape[axis] for value in values]
    if way.axis not in (None, axis):
        return f"{cat.name} joins another dimension than it differs along"
    if values.count(way.value) != 1 or not all(isinstance(size, int) for size in sizes):
        return f"{cat.name} takes it twice, or joins symbolic sizes"
    place = values.index(way.value)
    start = sum(sizes[:place])
    length = sizes[place]
    run = (way.start, length if way.end is None else way.end)
    return _Way(cat, start + run[0], start + run[1], axis)


def _names(nodes: Iterable[fx.Node]) -> str:
    return " and ".join(sorted("an output" if node.op == "output" else node.name for node in nodes))
