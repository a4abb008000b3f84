"""program, batches ==> E[x x^T] of what each linear layer, and each window of each convolution, reads."""

from __future__ import annotations

from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.nn import functional

from .calibration import Batch
from .ranges import Observer, merged
from .second_moment import SecondMoment

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.conv2d.default, _aten.conv2d.padding)
LAYERS = (_aten.linear.default, *_CONVOLUTIONS)
"""Operators whose inputs are measured."""
COLUMNS = 4096
"""The most columns that are measured: a moment of so many takes 128 MiB."""
_AT_ONCE = 1 << 22
"""Elements of windows that are laid out at once: bounds the memory beside the moments."""


def unmeasured(node: fx.Node) -> str | None:
    """Why the input of a layer, one of `LAYERS`, has no second moment; None where it has one."""
    named = arguments(node)
    if named.get("groups", 1) != 1:
        return f"its weight is in {named['groups']} groups"
    columns = named["weight"].meta["val"].shape[1:].numel()
    if columns > COLUMNS:
        return f"the second moment of its {columns} inputs is not kept, {COLUMNS} are the most"
    return None


def moment_key(node: fx.Node) -> str:
    """The name of a layer's moment among those of its program; layers that read the same rows share one."""
    named = arguments(node)
    if node.target is _aten.linear.default:
        return str(named["input"].name)
    window = "x".join(str(size) for size in named["weight"].meta["val"].shape[2:])
    rest = "/".join(str(named[key]) for key in ("stride", "padding", "dilation"))
    return f"{named['input'].name}:{window}/{rest}".replace(" ", "")


class SecondMoments(Observer[SecondMoment]):
    """Keeps one `SecondMoment` an input of layers: columns**2 * 8 bytes each, whatever the data.

    A window of a convolution is one row, its columns in the order of a flattened weight: channel, then row, then column.
    """

    kind = "second_moments"

    def run_node(self, n: fx.Node) -> Any:
        value = fx.Interpreter.run_node(self, n)
        if n.target in LAYERS and unmeasured(n) is None and moment_key(n) not in self._new:
            args, _ = self.fetch_args_kwargs_from_env(n)
            self._new[moment_key(n)] = moment_of(n, args[0])
        return value

    def observe(self, batch: Batch) -> None:
        """Fold one batch in."""
        self._new = {}
        with torch.no_grad():
            self.run(*batch)
        self.found, self._new = merged(self.found, self._new), {}


def moment_of(node: fx.Node, x: Tensor) -> SecondMoment:
    """Of a layer, one of `LAYERS`, that reads `x`; it is not `unmeasured`."""
    if node.target not in _CONVOLUTIONS:
        return SecondMoment.of(x.reshape(-1, x.shape[-1]))
    named = arguments(node)
    window: tuple[int, ...] = tuple(named["weight"].meta["val"].shape[2:])
    stride, dilation = pair(named["stride"]), pair(named["dilation"])
    x = functional.pad(x.reshape(-1, *x.shape[-3:]), _padding(named["padding"], window, dilation))
    columns = x.shape[1] * window[0] * window[1]
    images = max(1, _AT_ONCE // max(1, columns * x.shape[2] * x.shape[3] // (stride[0] * stride[1])))
    found: SecondMoment | None = None
    for part in torch.split(x, images):
        rows = functional.unfold(part, window, dilation, 0, stride).transpose(1, 2).reshape(-1, columns)
        one = SecondMoment.of(rows)
        found = one if found is None else found.merge(one)
    assert found is not None
    return found


def pair(value: Any) -> tuple[int, int]:
    """An operator's int or list of one or two ints as two."""
    given = [value] if isinstance(value, int) else list(value)
    return given[0], given[-1]


def _padding(given: Any, window: tuple[int, ...], dilation: tuple[int, int]) -> list[int]:
    """Left, right, top and bottom."""
    if given == "same":
        spans = [step * (size - 1) for size, step in zip(window, dilation, strict=True)]
        return [spans[1] // 2, spans[1] - spans[1] // 2, spans[0] // 2, spans[0] - spans[0] // 2]
    high, wide = (0, 0) if given == "valid" else pair(given)
    return [wide, wide, high, high]
