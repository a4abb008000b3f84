"""Every elementwise function of one value is a table, however many operators it is written in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from functions import FUNCTIONS
from fxpress_ir.analysis.cones import CLAMPS, ELEMENTWISE
from fxpress_ir.errors import PassError
from fxpress_passes.quantize.elementwise import bounds, tabulate
from quantized import exactly, targets
from sketch import Sketch
from torch import Tensor, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
INF = float("inf")


@pytest.mark.parametrize(
    ("target", "args", "expected"),
    [
        (_aten.relu.default, (), (0.0, INF)),
        (_aten.relu6.default, (), (0.0, 6.0)),
        (_aten.hardtanh.default, (), (-1.0, 1.0)),
        (_aten.hardtanh.default, (0, 6), (0.0, 6.0)),
        (_aten.clamp.default, (-2.5,), (-2.5, INF)),
        (_aten.clamp.default, (None, 3), (-INF, 3.0)),
        (_aten.clamp_min.default, (0.5,), (0.5, INF)),
    ],
)
def test_bounds_of_clamps(target: Callable[..., Tensor], args: tuple[float, ...], expected: tuple[float, float]) -> None:
    assert target in CLAMPS
    sketch = Sketch()
    assert bounds(sketch.call(target, sketch.x, *args)) == expected


def test_a_table_has_a_row_a_channel_where_constants_differ() -> None:
    sketch = Sketch()
    slopes = sketch.constant(torch.tensor([0.5, -1.0, 0.0, 2.0]))
    node = sketch.call(_aten.prelu.default, sketch.x, slopes)
    grid = torch.tensor([-2.0, 0.0, 3.0])
    found, axis = tabulate(node, sketch.x, [node], grid, sketch.tensors)
    assert axis == 1
    assert found.tolist() == [[-1.0, 0.0, 3.0], [2.0, 0.0, 3.0], [0.0, 0.0, 3.0], [-4.0, 0.0, 3.0]]


def test_a_table_along_the_last_dimension() -> None:
    sketch = Sketch(2, 3)
    node = sketch.call(_aten.add.Tensor, sketch.x, sketch.constant(torch.tensor([1.0, 2.0, 3.0])))
    found, axis = tabulate(node, sketch.x, [node], torch.tensor([0.0, 10.0]), sketch.tensors)
    assert (found.tolist(), axis) == ([[1.0, 11.0], [2.0, 12.0], [3.0, 13.0]], 1)


def test_a_function_that_is_no_number_somewhere_is_an_error_that_says_where() -> None:
    sketch = Sketch()
    node = sketch.call(_aten.log.default, sketch.x)
    with pytest.raises(PassError) as caught:
        tabulate(node, sketch.x, [node], torch.tensor([2.0, 0.0, -0.5]), sketch.tensors)
    assert str(caught.value) == "node log_default: it is not a number at -0.5; clamp its input to where it is defined"
    found, _ = tabulate(node, sketch.x, [node], torch.tensor([1.0, 0.0]), sketch.tensors)
    assert found.tolist() == [[0.0, -INF]]  # the least code


class Activations(nn.Module):
    """Every activation of one value, as outputs of their own."""

    def __init__(self) -> None:
        super().__init__()
        modules = [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.7), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.GELU("tanh"), nn.SiLU()]
        modules += [nn.Mish(), nn.Softplus(2.0), nn.Hardswish(), nn.Hardsigmoid(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.SELU(), nn.CELU(2.0)]
        modules += [nn.LogSigmoid(), nn.Hardshrink(), nn.Softshrink(0.3), nn.Threshold(0.1, -0.5), nn.Softsign(), nn.Tanhshrink()]
        self.activations = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = tuple(activation(x) for activation in self.activations)
        more = (x.erf(), x.exp(), x.expm1(), x.abs(), -x, x.sign(), x.sin(), x.cos(), x.atan(), x.square(), x**3, 2 - x, x / 3)
        return (*found, *more, x.clamp_min(0.2), x.clamp(max=0.4), (x * x + 1).sqrt())


def test_every_activation_is_a_table_of_rational_arithmetic() -> None:
    stages = exactly(Activations(), 1, 3, 8, 8)
    assert targets(stages.integer) == ["lut"] * 38


class PerChannel(nn.Module):
    """Functions whose constants differ from channel to channel, as outputs of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes, self.norm = nn.PReLU(4), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.tensor([-0.5, 1.5, 0.01, 2.0]).reshape(4, 1, 1))
        with torch.no_grad():
            self.slopes.weight.copy_(torch.tensor([0.25, -0.5, 1.0, 2.0]))
            for tensor in (*self.norm.parameters(), self.norm.running_mean, self.norm.running_var):
                tensor.uniform_(0.3, 1.7)
        self.register_buffer("columns", torch.linspace(-1, 1, 6))
        self.register_buffer("floor", torch.tensor([-1.0, -0.5, 0.0, 0.5]).reshape(1, 4, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        left_over = functional.relu(self.norm(x))
        return self.slopes(x), left_over, x * self.scale, self.scale * x + x, x - self.columns, torch.maximum(x, self.floor)


def test_functions_that_differ_from_channel_to_channel_are_tables_of_rational_arithmetic() -> None:
    stages = exactly(PerChannel())
    assert targets(stages.integer) == ["lut"] * 6
    tables = [tensor for name, tensor in stages.integer.tensors.items() if name.endswith(".table")]
    assert [tuple(table.shape) for table in tables] == [(4, 256)] * 4 + [(6, 256), (4, 256)]


WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": lambda x: x * torch.sigmoid(x),
    "hard swish": lambda x: x * functional.relu6(x + 3) / 6,
    "twice the relu": lambda x: functional.relu(x) + x,
    "a square of itself": lambda x: (x + 1) * (x - 1),
    "leaky in three": lambda x: functional.relu(x) - 0.1 * functional.relu(-x),
    "alpha": lambda x: torch.add(x, functional.relu(x), alpha=2),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_function_in_many_operators_is_one_table(name: str) -> None:
    assert targets(exactly(WRITTEN[name]).integer) == ["lut"]


def test_the_second_implementation_knows_every_operator_but_a_few() -> None:
    """Those that it lacks differ from one that it knows only in how their operand is written, or are not defined everywhere."""
    unknown = {str(target).removeprefix("aten.") for target in ELEMENTWISE - FUNCTIONS.keys()}
    assert unknown == {
        *(f"{name}.Scalar" for name in ("add", "sub", "mul", "div")),
        *(f"{name}.default" for name in ("log", "log1p", "rsqrt", "reciprocal", "clamp_max")),
    }
