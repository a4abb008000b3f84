"""A graph written by hand: an input x, tensors, and calls with the shapes of their results."""

from __future__ import annotations

from typing import Any

import torch
from fxpress_passes.quantize.recognize import Recognition, recognize
from fxpress_passes.quantize.recognized import Recognized
from torch import Tensor, fx

_aten = torch.ops.aten
IMAGE = (2, 4, 6, 6)
Found = Recognized | str


class Sketch:
    """An input `x` of a shape, by default that of `IMAGE`; all values are zeros, all tensors ones."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        self.graph = fx.Graph()
        self.tensors: dict[str, Tensor] = {}
        self.x = self.input("x", *(shape or IMAGE), dtype=dtype)

    def input(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        """One more input; write it before the first call."""
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.zeros(shape, dtype=dtype)
        return node

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        return self.constant(torch.ones(shape, dtype=dtype))

    def constant(self, value: Tensor) -> fx.Node:
        name = "w" if not self.tensors else f"w_{len(self.tensors)}"
        self.tensors[name] = value
        node = self.graph.create_node("get_attr", name)
        node.meta["val"] = value
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        given, named = fx.node.map_arg((args, kwargs), lambda used: used.meta["val"])
        node.meta["val"] = target(*given, **named)
        return node

    def recognition(self, *outputs: fx.Node) -> Recognition:
        """The graph recognised, with these outputs."""
        self.graph.output(outputs)
        return recognize(self.graph)

    def found(self, *outputs: fx.Node) -> list[Found]:
        """What each of the outputs is."""
        recognition = self.recognition(*outputs)
        return [recognition.found[node] for node in outputs]


def attended(
    sketch: Sketch, q: fx.Node, k: fx.Node, v: fx.Node, *, factor: float = 0.5, bias: fx.Node | None = None, mask: fx.Node | None = None
) -> fx.Node:
    """softmax(where(mask, q k^T * factor + bias, lowest)) v."""
    scores = sketch.call(_aten.mul.Tensor, sketch.call(_aten.matmul.default, q, sketch.call(_aten.transpose.int, k, -2, -1)), factor)
    if bias is not None:
        scores = sketch.call(_aten.add.Tensor, scores, bias)
    if mask is not None:
        scores = sketch.call(_aten.where.ScalarOther, mask, scores, -3e38)
    return sketch.call(_aten.matmul.default, sketch.call(_aten.softmax.int, scores, -1), v)


def rotated(sketch: Sketch, x: fx.Node, cosine: fx.Node, sine: fx.Node) -> fx.Node:
    """x * cosine + cat(-x[half:], x[:half]) * sine."""
    half = x.meta["val"].shape[-1] // 2
    first, second = sketch.call(_aten.slice.Tensor, x, -1, 0, half), sketch.call(_aten.slice.Tensor, x, -1, half, 2**63 - 1)
    turned = sketch.call(_aten.cat.default, [sketch.call(_aten.neg.default, second), first], -1)
    return sketch.call(_aten.add.Tensor, sketch.call(_aten.mul.Tensor, x, cosine), sketch.call(_aten.mul.Tensor, turned, sine))


def alone(target: Any, *args: Any, shape: tuple[int, ...] = IMAGE, **kwargs: Any) -> tuple[fx.Node, Found]:
    """The input of a graph that only calls ``target(x, *args)``, and what the call is."""
    sketch = Sketch(*shape)
    (found,) = sketch.found(sketch.call(target, sketch.x, *args, **kwargs))
    return sketch.x, found
