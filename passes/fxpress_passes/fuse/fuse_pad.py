"""conv(pad(x, 0)), max_pool(pad(x, -inf)), avg_pool(pad(x, 0)) ==> the same operator with a larger padding of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Close, Context, Pass, Promise

_aten = torch.ops.aten
_PADS = (_aten.pad.default, _aten.constant_pad_nd.default)
_VALID = {
    _aten.conv1d.padding: _aten.conv1d.default,
    _aten.conv2d.padding: _aten.conv2d.default,
    _aten.conv3d.padding: _aten.conv3d.default,
}
_CONVOLUTIONS: dict[Any, Any] = {**{overload: overload for overload in _VALID.values()}, **_VALID}
"""A convolution ==> the overload that takes its padding as numbers."""
_MAXIMA: dict[Any, int] = {_aten.max_pool1d.default: 1, _aten.max_pool2d.default: 2, _aten.max_pool3d.default: 3}
_AVERAGES: dict[Any, int] = {_aten.avg_pool1d.default: 1, _aten.avg_pool2d.default: 2, _aten.avg_pool3d.default: 3}
_NOT_NEGATIVE = frozenset({_aten.relu.default, _aten.relu6.default, _aten.sigmoid.default, _aten.hardsigmoid.default})
_ASYMMETRIC = "it pads its ends unlike each other"


@dataclass(frozen=True)
class FusePad(Pass):
    """Leave it to the operator that reads a padded value to pad it.

    A convolution and an average take zeros, a maximum what never wins: -inf, or zeros around what is not negative. Their
    padding is equal at both ends of a dimension, and that of a pool half of its window at most.
    """

    name: ClassVar[str] = "fuse-pad"
    promise: ClassVar[Promise] = Close(1e-6, "kernels that pad add products in another order")

    def apply(self, program: Program, context: Context) -> Program:
        pairs = [(pad, reader) for pad in program.graph.nodes if pad.target in _PADS for reader in pad.users]
        found = [(pad, reader, fitting) for pad, reader in pairs if (fitting := _fitting(pad, reader, context)) is not None]
        if not found:
            return program
        edit = program.edit()
        for pad, reader, padding in found:
            _write(edit, edit.here(pad), edit.here(reader), padding)
        return edit.finish()


def _fitting(pad: fx.Node, reader: fx.Node, context: Context) -> list[int] | None:
    """The reader's padding with that of `pad`; None where it cannot have it, which is refused."""
    if reader.target not in _CONVOLUTIONS | _MAXIMA | _AVERAGES or reader.args[0] is not pad:
        return None
    found = _padding(pad, reader)
    if isinstance(found, str):
        context.refuse(pad, f"{reader.name} cannot pad for it: {found}", "it stays an operator of its own")
        return None
    return found


def _padding(pad: fx.Node, reader: fx.Node) -> list[int] | str:
    named, taken = arguments(reader), arguments(pad)
    count = _MAXIMA.get(reader.target) or _AVERAGES.get(reader.target) or len(named["weight"].meta["val"].shape) - 2
    around = _around(taken["pad"], count)
    if isinstance(around, str):
        return around
    own = _each(0 if named["padding"] == "valid" else named["padding"], count)
    if isinstance(own, str):
        return own
    mode, value = taken.get("mode", "constant"), taken["value"] or 0
    reason = f"it pads by {mode}" if mode != "constant" else _unfit(reader, value, pad)
    total = [mine + more for mine, more in zip(own, around, strict=True)]
    if reason or reader.target in _CONVOLUTIONS:
        return reason or total
    windows = _each(named["kernel_size"], count)
    assert not isinstance(windows, str)
    if any(2 * padding > window for padding, window in zip(total, windows, strict=True)):
        return f"a padding of {total} is more than half of its windows"
    return total


def _around(pads: Sequence[Any], count: int) -> list[int] | str:
    """Paddings of the last `count` dimensions, the first of them first."""
    if not all(isinstance(size, int) for size in pads):
        return "its padding is computed"
    if any(size < 0 for size in pads):
        return "it cuts"
    pairs = [(pads[place], pads[place + 1]) for place in range(0, len(pads), 2)]
    if any(pair != (0, 0) for pair in pairs[count:]):
        return "it pads channels or batches"
    if any(before != after for before, after in pairs):
        return _ASYMMETRIC
    return [0] * max(0, count - len(pairs)) + [before for before, _ in reversed(pairs[:count])]


def _each(value: Any, count: int) -> list[int] | str:
    """One number for each dimension."""
    if isinstance(value, str):
        return f"its own padding is {value!r}"
    sizes = [value] if isinstance(value, int) else list(value)
    return sizes * count if len(sizes) == 1 else sizes


def _unfit(reader: fx.Node, value: float, pad: fx.Node) -> str:
    """Why an operator's own padding is not by this value; nothing where it is."""
    named = arguments(reader)
    if reader.target in _MAXIMA:
        never = value == -math.inf or (value == 0 and arguments(pad)["self"].target in _NOT_NEGATIVE)
        reason = "" if never else f"it pads with {value:g}, which may be a maximum"
    elif value != 0:
        reason = f"it pads with {value:g}"
    elif reader.target in _AVERAGES and not named["count_include_pad"] and named.get("divisor_override") is None:
        reason = "its divisor would leave out what is padded"
    else:
        reason = ""
    return reason or ("the last windows that it rounds up to would be others" if named.get("ceil_mode") else "")


def _write(edit: Edit, pad: fx.Node, reader: fx.Node, padding: Sequence[int]) -> None:
    named = {**arguments(reader), "padding": list(padding)}
    source, target = arguments(pad)["self"], _CONVOLUTIONS.get(reader.target, reader.target)
    with edit.graph.inserting_before(reader):
        padded = edit.call(target, source, *list(named.values())[1:], like=reader)
    edit.replace(reader, padded)
