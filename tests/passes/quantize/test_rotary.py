"""A rotation by constant angles is one operator, however it is written, and as exact as its tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import captured, measured
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from fxpress_passes.quantize.recognized import Recognized
from fxpress_passes.quantize.scales import SHORT_LIMIT
from quantized import Stages, quantized, targets, values
from sketch import Sketch, rotated
from torch import Tensor, fx, nn

_aten, _fxp = torch.ops.aten, torch.ops.fxp
ADD, MUL, CAT, NEG, SLICE = _aten.add.Tensor, _aten.mul.Tensor, _aten.cat.default, _aten.neg.default, _aten.slice.Tensor
END = 2**63 - 1
SHAPE = (2, 3, 6)


def _angles(sketch: Sketch) -> tuple[fx.Node, fx.Node]:
    return sketch.tensor(3, 6), sketch.tensor(3, 6)


def _crossed(sketch: Sketch, x: fx.Node) -> fx.Node:
    """cat(-x[3:], x[:3]) with its slices counted from the end."""
    return sketch.call(CAT, [sketch.call(NEG, sketch.call(SLICE, x, 2, -3, 6)), sketch.call(SLICE, x, 2, None, -3)], 2)


WRITTEN: dict[str, Callable[[Sketch, fx.Node, fx.Node], fx.Node]] = {
    "as usual": lambda s, c, d: rotated(s, s.x, c, d),
    "the other way round": lambda s, c, d: s.call(ADD, s.call(MUL, d, _crossed(s, s.x)), s.call(MUL, c, s.x)),
    "slices from the end": lambda s, c, d: s.call(ADD, s.call(MUL, s.x, c), s.call(MUL, _crossed(s, s.x), d)),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_a_rotation_is_one_value(way: str) -> None:
    sketch = Sketch(*SHAPE)
    cosine, sine = _angles(sketch)
    whole = WRITTEN[way](sketch, cosine, sine)
    recognition = sketch.recognition(whole)
    found = recognition.found[whole]
    assert isinstance(found, Recognized)
    assert (found.kind, found.operands, found.cosine, found.sine) == ("rotary", (sketch.x,), cosine, sine)
    assert recognition.inside == set(found.parts) == {node for node in sketch.graph.nodes if node.op == "call_function"} - {whole}
    assert recognition.found == {whole: found}


def test_tables_may_be_moved_constants_and_are_no_values() -> None:
    sketch = Sketch(2, 4, 3, 6)
    cosine, sine = (sketch.call(_aten.unsqueeze.default, sketch.call(SLICE, sketch.tensor(9, 6), 0, 0, 3), 0) for _ in range(2))
    spread = sketch.call(_aten.expand.default, sine, [4, -1, -1])
    one, two = rotated(sketch, sketch.x, cosine, spread), rotated(sketch, sketch.call(_aten.transpose.int, sketch.x, 0, 1), cosine, sine)
    recognition = sketch.recognition(one, two)
    assert [what.kind for what in recognition.found.values() if isinstance(what, Recognized)] == ["rotary", "move", "rotary"]
    assert {cosine, sine, spread, *cosine.all_input_nodes, *sine.all_input_nodes} <= recognition.inside


def test_a_moved_constant_that_something_else_reads_is_a_value_too() -> None:
    sketch = Sketch(2, 3, 6)
    cosine = sketch.call(_aten.unsqueeze.default, sketch.tensor(3, 6), 0)
    turned, shifted = rotated(sketch, sketch.x, cosine, sketch.tensor(3, 6)), sketch.call(ADD, sketch.x, cosine)
    recognition = sketch.recognition(turned, shifted)
    assert recognition.found[cosine] == Recognized("move", tuple(cosine.all_input_nodes))
    assert cosine not in recognition.inside


def _of(crossed: Callable[[Sketch, fx.Node], fx.Node]) -> Callable[[Sketch, fx.Node, fx.Node], fx.Node]:
    """x * cosine + crossed(x) * sine."""
    return lambda s, c, d: s.call(ADD, s.call(MUL, s.x, c), s.call(MUL, crossed(s, s.x), d))


def _halves(s: Sketch, x: fx.Node, *bounds: int, dim: int = 2) -> tuple[fx.Node, fx.Node]:
    return s.call(SLICE, x, dim, bounds[0], bounds[1]), s.call(SLICE, x, dim, bounds[2], bounds[3])


def _joined(s: Sketch, negated: fx.Node, first: fx.Node, dim: int = 2) -> fx.Node:
    return s.call(CAT, [s.call(NEG, negated), first], dim)


def _interleaved(s: Sketch, x: fx.Node) -> fx.Node:
    odd, even = s.call(SLICE, x, 2, 1, END, 2), s.call(SLICE, x, 2, 0, END, 2)
    return _joined(s, odd, even)


def _three(s: Sketch, x: fx.Node) -> fx.Node:
    second, first = _halves(s, x, 3, END, 0, 2)
    return s.call(CAT, [s.call(NEG, second), first, s.call(SLICE, x, 2, 2, 3)], 2)


OTHERS: dict[str, Callable[[Sketch, fx.Node, fx.Node], fx.Node]] = {
    "scaled by alpha": lambda s, c, d: s.call(ADD, s.call(MUL, s.x, c), s.call(MUL, _crossed(s, s.x), d), alpha=2),
    "by computed angles": lambda s, c, d: rotated(s, s.x, s.call(_aten.transpose.int, s.x, 1, 1), d),
    "by numbers": lambda s, c, d: s.call(ADD, s.call(MUL, s.x, 0.5), s.call(MUL, _crossed(s, s.x), d)),
    "of another value": lambda s, c, d: s.call(
        ADD, s.call(MUL, s.x, c), s.call(MUL, _crossed(s, s.call(_aten.transpose.int, s.x, 1, 1)), d)
    ),
    "the other half negated": _of(lambda s, x: s.call(CAT, [_halves(s, x, 3, END, 0, 3)[0], s.call(NEG, _halves(s, x, 0, 3, 0, 3)[1])], 2)),
    "nothing negated": _of(lambda s, x: s.call(CAT, list(_halves(s, x, 3, END, 0, 3)), 2)),
    "another function of a half": _of(
        lambda s, x: s.call(CAT, [s.call(_aten.abs.default, _halves(s, x, 3, END, 0, 3)[0]), s.call(SLICE, x, 2, 0, 3)], 2)
    ),
    "not at the middle": _of(lambda s, x: _joined(s, *_halves(s, x, 2, END, 0, 2))),
    "halves in place": _of(lambda s, x: _joined(s, *_halves(s, x, 0, 3, 3, END))),
    "interleaved": _of(_interleaved),
    "of three parts": _of(_three),
    "no slices": _of(lambda s, x: _joined(s, s.tensor(2, 3, 3), s.call(SLICE, x, 2, 0, 3))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_sums_of_products_are_none(name: str) -> None:
    sketch = Sketch(*SHAPE)
    whole = OTHERS[name](sketch, *_angles(sketch))
    (found,) = sketch.found(whole)
    assert isinstance(found, str) or found.kind in ("add", "table")


def test_a_rotation_along_another_dimension_is_none() -> None:
    sketch = Sketch(2, 6, 6)
    turned = _joined(sketch, *_halves(sketch, sketch.x, 3, END, 0, 3, dim=1), dim=1)
    whole = sketch.call(ADD, sketch.call(MUL, sketch.x, sketch.tensor(6, 6)), sketch.call(MUL, turned, sketch.tensor(6, 6)))
    (found,) = sketch.found(whole)
    assert isinstance(found, Recognized)
    assert found.kind == "add"


def test_a_part_that_something_else_reads_is_a_value() -> None:
    """A half of x that is read beside the rotation: it is a move, and the rest products and a sum."""
    sketch = Sketch(*SHAPE)
    whole = rotated(sketch, sketch.x, *_angles(sketch))
    half = next(iter(sketch.graph.find_nodes(op="call_function", target=SLICE)))
    recognition = sketch.recognition(whole, half)
    found = recognition.found[whole]
    assert isinstance(found, Recognized)
    assert found.kind == "add"
    assert recognition.found[half] == Recognized("move", (sketch.x,))


class Turned(nn.Module):
    """x turned by angles, times `gain`, after a table that makes its scale another one."""

    def __init__(self, gain: float = 1.0, body: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(7), torch.tensor([1.0, 0.3, 0.05])).repeat(1, 2)
        self.register_buffer("cosine", gain * angles.cos())
        self.register_buffer("sine", gain * angles.sin())
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x * self.cosine + torch.cat([-x[..., 3:], x[..., :3]], -1) * self.sine


def _stages(gain: float = 1.0, body: Callable[[Tensor], Tensor] = torch.tanh, bits: int = 8) -> Stages:
    program = captured(Turned(gain, body), 2, 7, 6)
    return quantized(program, measured(program), integer_only=True, activation_bits=bits)


@pytest.mark.parametrize("gain", [1.0, 1.9, 0.01, 300.0])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_rotation_in_integers_is_the_rotation_of_its_integers(gain: float, bits: int) -> None:
    """Half a step for the result, half of 2**-c for each of two entries of the tables; nothing clamps on these data."""
    stages = _stages(gain, bits=bits)
    (node,) = stages.integer.graph.find_nodes(op="call_function", target=_fxp.rotary.default)
    named = arguments(node)
    tables = [stages.integer.tensors[str(named[table].target)] for table in ("cosine", "sine")]
    assert 2**13 < max(int(table.abs().max()) for table in tables) <= SHORT_LIMIT or named["c"] in (1, 15)
    unit, scale = (arguments(fake)["scale"] for fake in _quantizers(stages.simulated)[1:])
    x = torch.randn(5, 7, 6)
    found = values(stages.integer, x)
    operand, result = (found[part.name].double() for part in (named["x"], node))
    exact = Turned(gain, lambda x: x).double()(operand * unit) / scale
    clamped = (result <= named["qmin"]) | (result >= named["qmax"])
    assert float(clamped.double().mean()) < 0.05
    error = (result - exact).abs().where(~clamped, 0.0)
    assert float(error.max()) <= 0.5 + float(operand.abs().max()) / 2 ** named["c"] + 1e-3  # cosines in float32


def _quantizers(program: Program) -> list[fx.Node]:
    return list(program.graph.find_nodes(op="call_function", target=_fxp.fake_quantize.default))


def test_an_unsigned_value_is_turned_at_half_its_resolution() -> None:
    """The operator takes no u8."""
    stages = _stages(body=torch.sigmoid)
    assert targets(stages.integer) == ["lut", "requantize", "rotary"]
    x = torch.randn(5, 7, 6)
    unit = arguments(_quantizers(stages.simulated)[1])["scale"]
    assert torch.allclose(stages.integer.run(x)[0], stages.simulated.run(x)[0], atol=4 * unit)


def test_angles_of_zero_are_tables_of_zeros() -> None:
    zeros = _stages(0.0).integer
    assert torch.equal(zeros.run(torch.randn(2, 7, 6))[0], torch.zeros(2, 7, 6))
