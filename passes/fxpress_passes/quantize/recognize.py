"""ATen node ==> what it is in integers: a weighted sum, an add, an average, a maximum, a rectifier, a move; or why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir.ops import SHAPE_OPERATORS, arguments
from torch import Tensor, fx

_aten = torch.ops.aten
_fxp = torch.ops.fxp


@dataclass(frozen=True)
class Window:
    """Sizes in (height, width); padding as (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Recognized:
    """What a node computes.

    Attributes:
        kind: ``weighted``, ``add``, ``average``, ``maximum``, ``rectify`` or ``move``. The first three make int32
            accumulators, so a rectifier that alone reads them costs nothing: it is the lower clamp of their result.
        operands: the activations it reads.
        weight, bias: constants of a weighted sum.
        window: of a convolution, an average or a maximum.
        divisor: of an average.
        groups: of a convolution.
        keeps_rank: False where an average drops the dimensions that it reduced.
    """

    kind: str
    operands: tuple[fx.Node, ...]
    weight: fx.Node | None = None
    bias: fx.Node | None = None
    window: Window | None = None
    divisor: int = 1
    groups: int = 1
    keeps_rank: bool = True

    @property
    def accumulates(self) -> bool:
        return self.kind in ("weighted", "add", "average")


def recognize(node: fx.Node) -> Recognized | str:
    """What `node` is in integers, or the reason why it is nothing."""
    rule = _move if node.target in SHAPE_OPERATORS else _RULES.get(node.target)
    if rule is None:
        return f"{node.target} has no integer form"
    what = rule(node, arguments(node))
    return what if isinstance(what, str) else _misfit(node, what) or what


def _misfit(node: fx.Node, what: Recognized) -> str | None:
    """Why the values that a recognised node reads or makes have no integer form."""
    if node.meta["val"].dtype != torch.float32:
        return f"it computes in {node.meta['val'].dtype}"
    for operand in what.operands:
        if operand.op == "get_attr":
            return f"its operand {operand.target} is constant"
        if not is_float(operand):
            return f"its operand {operand.name} is not a float tensor"
    if what.window is not None and what.operands[0].meta["val"].dim() != 4:
        return "its input is one image without a batch dimension"
    return None


def fused_rectifier(node: fx.Node) -> fx.Node | None:
    """The ReLU that alone reads an accumulator, or None."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is _aten.relu.default else None


def _constant(value: Any) -> bool:
    """A tensor of the program, or one behind a fake quantiser."""
    if value is None or value.op == "get_attr":
        return True
    return value.target is _fxp.fake_quantize_channels.default and value.args[0].op == "get_attr"


def _pair(value: Any, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1]) if value else default


def _around(padding: tuple[int, int]) -> tuple[int, int, int, int]:
    return (*padding, *padding)


def _spatial(node: fx.Node) -> tuple[int, int] | None:
    """Height and width of a 4-dimensional value, None where they are symbolic."""
    shape = node.meta["val"].shape
    static = len(shape) == 4 and isinstance(shape[2], int) and isinstance(shape[3], int)
    return (shape[2], shape[3]) if static else None


def _move(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    return Recognized("move", (named["self"],))


def _conv2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    if not _constant(named["weight"]) or not _constant(named["bias"]):
        return "its weight is computed, not constant"
    kernel = tuple(named["weight"].meta["val"].shape[2:])
    window = Window(kernel, _pair(named["stride"]), _around(_pair(named["padding"])), _pair(named["dilation"]))
    return Recognized("weighted", (named["input"],), named["weight"], named["bias"], window, groups=named["groups"])


def _linear(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    if not _constant(named["weight"]) or not _constant(named["bias"]):
        return "its weight is computed, not constant"
    return Recognized("weighted", (named["input"],), named["weight"], named["bias"])


def _add(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    left, right = named["self"], named["other"]
    if not isinstance(right, fx.Node):
        return "it adds a number"
    if named["alpha"] != 1:
        return f"it scales its second operand by {named['alpha']}"
    if any(operand.op == "get_attr" for operand in (left, right)):
        return "it adds a constant tensor"
    if list(left.meta["val"].shape) != list(right.meta["val"].shape):
        return "it broadcasts one operand"
    return Recognized("add", (left, right))


def _avg_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    padding = _pair(named["padding"], (0, 0))
    if named["ceil_mode"]:
        return "its last windows may be smaller (ceil_mode)"
    if any(padding) and not named["count_include_pad"]:
        return "its divisor differs at the edges (count_include_pad=False)"
    kernel = _pair(named["kernel_size"])
    window = Window(kernel, _pair(named["stride"], kernel), _around(padding))
    return Recognized("average", (named["self"],), window=window, divisor=named["divisor_override"] or kernel[0] * kernel[1])


def _adaptive_avg_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    size, out = _spatial(named["self"]), _pair(named["output_size"])
    if size is None:
        return "its input's height or width is not static"
    if size[0] % out[0] or size[1] % out[1]:
        return f"{size[0]}x{size[1]} does not divide into {out[0]}x{out[1]} windows"
    kernel = (size[0] // out[0], size[1] // out[1])
    return Recognized("average", (named["self"],), window=Window(kernel, kernel), divisor=kernel[0] * kernel[1])


def _mean(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    size = _spatial(named["self"])
    if size is None or sorted(d % 4 for d in named["dim"] or []) != [2, 3]:
        return "it does not average over a static height and width"
    return Recognized("average", (named["self"],), window=Window(size, size), divisor=size[0] * size[1], keeps_rank=named["keepdim"])


def _max_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    kernel = _pair(named["kernel_size"])
    stride, padding, dilation = _pair(named["stride"], kernel), _pair(named["padding"], (0, 0)), _pair(named["dilation"])
    size, out = _spatial(named["self"]), node.meta["val"].shape[2:]
    if not named["ceil_mode"]:
        return Recognized("maximum", (named["self"],), window=Window(kernel, stride, _around(padding), dilation))
    if size is None:
        return "its input's height or width is not static (ceil_mode)"
    # padding below and to the right that makes floor mode see the same windows
    reach = [(out[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 - size[d] - padding[d] for d in (0, 1)]
    return Recognized("maximum", (named["self"],), window=Window(kernel, stride, (*padding, max(0, reach[0]), max(0, reach[1])), dilation))


def _relu(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    return Recognized("rectify", (named["self"],))


_RULES: dict[Any, Callable[[fx.Node, dict[str, Any]], Recognized | str]] = {
    _aten.conv2d.default: _conv2d,
    _aten.linear.default: _linear,
    _aten.add.Tensor: _add,
    _aten.avg_pool2d.default: _avg_pool2d,
    _aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    _aten.mean.dim: _mean,
    _aten.max_pool2d.default: _max_pool2d,
    _aten.relu.default: _relu,
}


def is_float(node: fx.Node) -> bool:
    """The node computes a floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()
