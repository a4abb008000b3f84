"""A graph written by hand: an input x, tensors, and calls with the shapes of their results."""

from __future__ import annotations

from typing import Any

import torch
from fxpress_passes.quantize.recognize import Recognition, recognize
from fxpress_passes.quantize.recognized import Recognized
from torch import Tensor, fx

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


def alone(target: Any, *args: Any, shape: tuple[int, ...] = IMAGE, **kwargs: Any) -> tuple[fx.Node, Found]:
    """The input of a graph that only calls ``target(x, *args)``, and what the call is."""
    sketch = Sketch(*shape)
    (found,) = sketch.found(sketch.call(target, sketch.x, *args, **kwargs))
    return sketch.x, found
