"""Two programs, batches ==> both run side by side, from layer to layer; the first with what is decided for its layers on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..evidence.calibration import Batch
from .layers import Layer, source_of

_fxp = torch.ops.fxp
_QUANTIZERS = (_fxp.fake_quantize.default, _fxp.fake_quantize_channels.default)
Pairs = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""What a layer reads and what it should give, batch by batch, as often as one asks."""
Decided = Mapping[str, tuple[Tensor, Tensor | None]]
"""Weights as they multiply, and biases, by layers' names."""
Decide = Callable[[Layer, Pairs], Decided]
"""What is done about a layer, and about those that share its weight; nothing leaves them as they are."""


def walk(
    program: Program, reference: Program, batches: Iterable[Batch], layers: Sequence[Layer], decide: Decide, *, sequential: bool
) -> None:
    """Ask `decide` about each layer before it runs.

    Memory holds the live values of all batches of both programs, and no layer's beyond its readers.

    Args:
        program: simulated.
        reference: has the same layers by name; it runs without its quantisers, and says what each should give.
        sequential: a layer reads what the program gives with what was decided before it; else what the reference gives, on the
            grid of the layer's input.
    """
    wanted = [_Run(reference.module, batch, quantizes=False) for batch in batches]
    found = [_Run(program.module, run.batch) for run in wanted] if sequential else []
    with torch.no_grad():
        for layer in layers:
            for run in (*found, *wanted):
                run.advance(layer.name)
            inputs = [run.input() for run in found] if sequential else [_rounded(layer, run.input()) for run in wanted]
            results = [run.step() for run in wanted]
            decided = decide(layer, partial(zip, inputs, results, strict=True))
            for run in found:
                run.decided.update(decided)


def _rounded(layer: Layer, x: Tensor) -> Tensor:
    quantizer = source_of(layer.node)
    if quantizer is None:
        return x
    named = arguments(quantizer)
    rounded: Tensor = _fxp.fake_quantize(x, named["scale"], named["qmin"], named["qmax"])
    return rounded


def layer_errors(program: Program, reference: Program, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, float]:
    """By layers' names, ||y' - y||^2 / ||y||^2 of what they give in a simulated program and in `reference` without quantisers."""
    sums = {name: [0.0, 0.0] for name in names}
    with torch.no_grad():
        for batch in batches:
            first, second = _Run(program.module, batch), _Run(reference.module, batch, quantizes=False)
            for name in names:
                for run in (first, second):
                    run.advance(name)
                found, wanted = first.step().double(), second.step().double()
                sums[name][0] += float((found - wanted).square().sum())
                sums[name][1] += float(wanted.square().sum())
    return {name: error / max(energy, 1e-300) for name, (error, energy) in sums.items()}


class _Run(fx.Interpreter):
    """One batch on its way through a graph.

    Attributes:
        decided: weights and biases of layers that something was decided about, by name.
    """

    def __init__(self, module: fx.GraphModule, batch: Batch, *, quantizes: bool = True) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would make an error's one line many
        self.batch, self._quantizes = batch, quantizes
        self.args_iter = iter(batch)
        self._nodes = list(self.graph.nodes)
        self._place = 0
        self.decided: dict[str, tuple[Tensor, Tensor | None]] = {}

    def advance(self, name: str) -> None:
        """Run all that comes before the node of this name."""
        while self._nodes[self._place].name != name:
            self.step()

    def input(self) -> Tensor:
        """What the next node, a layer, reads."""
        return self.input_of(self._nodes[self._place])

    def input_of(self, layer: fx.Node) -> Tensor:
        """What a layer reads."""
        value: Tensor = self.env[arguments(layer)["input"]]
        return value

    def step(self) -> Any:
        """The value of the next node."""
        node = self._nodes[self._place]
        self._place += 1
        value = self.env[node] = self.run_node(node)
        for used in self.user_to_last_uses.get(node, ()):
            del self.env[used]
        return value

    def run_node(self, n: fx.Node) -> Any:
        if n.target in _QUANTIZERS and not self._quantizes:
            return self.env[n.args[0]]  # type: ignore[index]
        if n.name in self.decided:
            weight, bias = self.decided[n.name]
            named = {**arguments(n), "input": self.input_of(n), "weight": weight, "bias": bias}
            return n.target(*named.values())  # type: ignore[operator]
        return super().run_node(n)
