"""A layer, what it reads and should give ==> its new weight, scales and bias."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments, quantize_channels
from torch import Tensor

from ..contract import Context
from .layers import Layer
from .matrix import Matrix
from .methods.task import How, Learnt, Method, Task
from .quadratic import Quadratic
from .rescale import are_free, snapped, sums_fit
from .walk import Pairs

COLUMNS = 8192
"""The most inputs of an output: the second moment of so many takes 512 MiB."""
_WHERE = "reconstruct"


@dataclass(frozen=True, eq=False)
class Fitted:
    """What became of a layer.

    Attributes:
        weight: integers times scales, float32; None where it stays.
        scales: float64; None where they stay.
        bias: float32 [outputs]; None where it stays.
        before, after: the squared error on the data relative to the results' energy.
        zeros: how many weights were zero before they were quantised, and are.
    """

    weight: Tensor | None
    scales: Tensor | None
    bias: Tensor | None
    before: float
    after: float
    zeros: int


class Fitter:
    """Fits layers of one program to those of `reference`, by one method."""

    def __init__(self, method: Method, how: How, program: Program, reference: Program, *, takes_mean: bool) -> None:
        self._method, self._how, self._takes_mean = method, how, takes_mean
        self._program, self.reference = program, reference
        self._nodes = {node.name: node for node in reference.graph.nodes}

    def fit(self, layer: Layer, pairs: Pairs, context: Context, done: Callable[[float], None]) -> Fitted | None:
        """None where the layer is left alone; `context` has the reason.

        Raises:
            PassError: its weight, or what it reads or should give, is NaN or infinite.
        """
        weight = self._wanted(layer)
        matrix = Matrix(layer.node, weight)
        if matrix.columns > COLUMNS:
            context.refuse(layer.node, f"each of its outputs reads {matrix.columns} inputs, {COLUMNS} are the most")
            return None
        task = self._task(layer, matrix, weight, pairs, done)
        old = _Candidate(task.codes, task.scales, task)
        try:
            learnt = self._method.learn(task)
        except ValueError as error:
            context.refuse(layer.node, str(error), "raise damping")
            return None
        new = _Candidate(learnt.codes, self._dyadic(layer, task, learnt), task)
        if not sums_fit(new.codes, layer.source):
            context.refuse(
                layer.node, "its sums of products over inputs of 16 bits would leave 2**30", "let it read 8 bits, or give its weights fewer"
            )
            new = old
        if self._method.falls and new.error >= old.error:
            new = old
        return self._fitted(layer, task, old, new)

    def _wanted(self, layer: Layer) -> Tensor:
        """The weight of the reference, before its quantiser."""
        quantizer = arguments(self._nodes[layer.name])["weight"]
        weight = self.reference.tensors[str(arguments(quantizer)["x"].target)].detach()
        if not bool(weight.isfinite().all()):
            raise PassError(
                f"its weight {layer.weight} holds NaN or infinity", where=f"{_WHERE}, node {layer.name}", way_on="repair the model"
            )
        return weight

    def _task(self, layer: Layer, matrix: Matrix, weight: Tensor, pairs: Pairs, done: Callable[[float], None]) -> Task:
        tensors = self._program.tensors
        scales = tensors[layer.scale].detach()
        bias = None if layer.bias is None else tensors[layer.bias].detach().double().reshape(matrix.groups, matrix.rows)
        codes = quantize_channels(tensors[layer.weight].detach(), scales, layer.axis, -layer.most, layer.most)
        wide = matrix.of(weight.double())
        error = Quadratic.of(wide, bias, _parts(matrix, pairs), takes_mean=self._takes_mean)
        if not error.is_finite():
            what = "what it reads or should give is NaN or infinite on calibration data"
            raise PassError(what, where=f"{_WHERE}, node {layer.name}", way_on="repair the model and the data")
        free = not layer.sharing and are_free(layer, scales)
        kept = matrix.of(weight != 0)
        return Task(error, matrix, matrix.of(codes.double()), scales.float().double(), layer.most, kept, free, self._how, done)

    def _dyadic(self, layer: Layer, task: Task, learnt: Learnt) -> Tensor:
        """The scales as `to-integer` can read multipliers back from them."""
        if torch.equal(learnt.scales, task.scales):
            return task.scales
        assert layer.source is not None
        assert layer.target is not None
        bias = self._bias(layer, _Candidate(learnt.codes, learnt.scales, task))
        if bias is not None:
            bias = bias.reshape(-1, len(learnt.scales)).abs().amax(0)
        return snapped(learnt.scales, layer.source, layer.target, bias)

    def _bias(self, layer: Layer, found: _Candidate) -> Tensor | None:
        """Float64 [outputs]; None where there is none and none is to be."""
        old = None if layer.bias is None else self._program.tensors[layer.bias].detach().double()
        if not self._takes_mean:
            return old
        offset = found.task.error.offset(found.quantized).reshape(-1)
        return -offset if old is None else old - offset

    def _fitted(self, layer: Layer, task: Task, old: _Candidate, new: _Candidate) -> Fitted:
        energy = float((task.error.spread + task.error.wanted.square()).sum())
        moved = new is not old and self._method.moves
        # without biases that take the mean error it is in the error already
        before = old.error + (float(task.error.offset(old.quantized).square().sum()) if self._takes_mean else 0.0)
        bias = self._bias(layer, new) if self._takes_mean else None
        return Fitted(
            task.matrix.weight(new.quantized.float()) if moved else None,
            new.scales if moved and new.scales is not task.scales else None,
            None if bias is None else bias.float(),
            before / max(energy, 1e-300),
            new.error / max(energy, 1e-300),
            int((~task.kept).sum()),
        )


class _Candidate:
    """Integers on scales, with what they leave of the error."""

    def __init__(self, codes: Tensor, scales: Tensor, task: Task) -> None:
        self.codes, self.scales, self.task = codes + 0.0, scales, task  # a zero has no sign
        # as float32 numbers, the products that the program computes with
        self.quantized = (self.codes.float() * task.matrix.expand(scales).float()).double()
        self.error = float(task.error.errors(self.quantized).sum())


def _parts(matrix: Matrix, pairs: Pairs) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in pairs():
        yield from matrix.parts(x, y)
