"""y = Wq x + b ==> y = Wq x + b + E[W x - Wq x], the mean error that quantising a weight makes, per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context, Lossy, Pass, Promise

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_LAYERS = {_aten.conv2d.default: 1, _aten.conv2d.padding: 1, _aten.conv_transpose2d.input: 1, _aten.linear.default: -1}
"""Layers and the axis of their outputs' channels."""


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Bias correction (Nagel et al. 2019, section 4.2), the empirical variant: the mean is measured on calibration data.

    Layers are corrected at once, each for the error of its own weight on the inputs that it gets in the quantised program.
    """

    name: ClassVar[str] = "correct-bias"
    promise: ClassVar[Promise] = Lossy(15.0)
    takes: ClassVar[tuple[str, ...]] = ("simulated",)
    after: ClassVar[tuple[str, ...]] = ("place-quantizers", "allocate-bits", "reconstruct")

    def apply(self, program: Program, context: Context) -> Program:
        layers = [node for node in program.graph.nodes if _is_quantized(node)]
        if not layers:
            return program
        measured = _MeanErrors(program)
        for batch in context.evidence.calibration.batches(program):
            measured.observe(batch)
        edit = program.edit()
        for original in layers:
            node, bias = edit.here(original), arguments(original)["bias"]
            old = torch.zeros(()) if bias is None else program.tensors[str(bias.target)].detach()
            corrected = (old.double() + measured.of(original.name)).float()
            hint = f"{original.name}.bias" if bias is None else str(bias.target)
            with edit.graph.inserting_before(node):
                added = edit.add_tensor(f"{hint}.corrected", corrected)
            node.args = (*node.args[:2], added, *node.args[3:])
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "bias"}
        return edit.finish()


def _is_quantized(node: fx.Node) -> bool:
    """A layer whose weight is a quantised constant and whose bias is a constant or missing."""
    if node.target not in _LAYERS:
        return False
    named = arguments(node)
    bias = named["bias"]
    return named["weight"].target is _fxp.fake_quantize_channels.default and (bias is None or bias.op == "get_attr")


class _MeanErrors(fx.Interpreter):
    """Runs a simulated program and adds up, per output channel, what each layer would give with its unquantised weight."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self._tensors = program.tensors
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def observe(self, batch: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            self.run(*batch)

    def of(self, name: str) -> Tensor:
        total, count = self._sums[name]
        return total / count

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if _is_quantized(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            kwargs = {name: value for name, value in kwargs.items() if name != "bias"}
            weight = self._tensors[str(arguments(arguments(n)["weight"])["x"].target)].detach()
            # without a bias, and linear in the weight: one evaluation on the difference
            error = n.target(args[0], weight - args[1], None, *args[3:], **kwargs)  # type: ignore[operator]
            axis = _LAYERS[n.target] % error.dim()  # type: ignore[index]
            dims = [d for d in range(error.dim()) if d != axis]
            old = self._sums.get(n.name, (torch.zeros((), dtype=torch.float64), 0))
            self._sums[n.name] = (old[0] + error.double().sum(dims), old[1] + error.numel() // error.shape[axis])
        return result
