"""Rows of tables, products of two values and probabilities in integers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from float_programs import Function, captured, measured, sample
from fxpress_ir import Program, capture, verify
from fxpress_ir.errors import RefusalError
from fxpress_ir.ops import arguments
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Context, Pipeline
from fxpress_passes.quantize.recognized import Recognized
from fxpress_passes.quantize.scales import PROBABILITIES
from quantized import exactly, quantized, targets, values
from sketch import Sketch, alone
from torch import Tensor, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
EMBEDDING, MATMUL, SOFTMAX = _aten.embedding.default, _aten.matmul.default, _aten.softmax.int


def test_rows_of_a_table_are_a_value_without_operands() -> None:
    sketch = Sketch(2, 3, dtype=torch.int64)
    table = sketch.tensor(9, 4)
    assert sketch.found(sketch.call(EMBEDDING, table, sketch.x)) == [Recognized("embedding", (), weight=table)]


def test_a_product_of_two_values_of_equal_ranks() -> None:
    sketch = Sketch(2, 4, 4)
    turned = sketch.call(_aten.transpose.int, sketch.x, 1, 2)
    product, square = sketch.call(MATMUL, sketch.x, turned), sketch.call(MATMUL, sketch.x, sketch.x)
    relu = sketch.call(_aten.relu.default, sketch.call(MATMUL, turned, turned))
    assert sketch.found(product, square, relu) == [
        Recognized("matmul", (sketch.x, turned)),
        Recognized("matmul", (sketch.x, sketch.x)),
        Recognized("matmul", (turned, turned), core=relu.args[0], bounds=(0.0, float("inf"))),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("dim", [-1, 2])
def test_probabilities_along_the_last_dimension(dim: int) -> None:
    x, found = alone(SOFTMAX, dim, shape=(2, 3, 4))
    assert found == Recognized("softmax", (x,))


def test_what_has_no_integer_form_says_why() -> None:
    ids = Sketch(2, 3, dtype=torch.int64)
    computed = ids.call(EMBEDDING, ids.call(_aten.neg.default, ids.tensor(9, 4)), ids.x)
    assert ids.found(computed) == ["its table is computed, not constant"]
    ranks, rows, fixed = Sketch(2, 4, 4), Sketch(4), Sketch(2, 4, 4)
    assert ranks.found(ranks.call(MATMUL, ranks.x, ranks.call(_aten.select.int, ranks.x, 0, 0))) == [
        "it multiplies tensors of 3 and 2 dimensions"
    ]
    assert rows.found(rows.call(MATMUL, rows.x, rows.call(_aten.flatten.using_ints, rows.x))) == [
        "it multiplies tensors of 1 and 1 dimensions"
    ]
    assert fixed.found(fixed.call(MATMUL, fixed.x, fixed.tensor(2, 4, 4))) == ["its operand w is constant"]
    assert alone(SOFTMAX, 1, shape=(2, 3, 4))[1] == "it is not over the last dimension"


def test_a_product_of_two_values_is_that_of_rational_arithmetic() -> None:
    stages = exactly(lambda x: (x @ x.transpose(2, 3)).relu() @ x.sigmoid(), 1, 2, 4, 5)
    assert targets(stages.integer) == ["transpose", "matmul", "requantize", "lut", "matmul", "requantize"]


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        with torch.no_grad():
            self.table.weight[20, 3] = 9.0
        self.layer = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.layer(self.table(ids))
        return result


def _words() -> Program:
    return capture(Words().eval(), (torch.zeros(2, 5, dtype=torch.int64),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def test_a_table_is_quantized_over_all_its_rows_and_looked_up_in_integers() -> None:
    """Calibration sees two rows; the largest value stands in another one."""
    program = _words()
    stages = quantized(program, Context(Evidence(Calibration([(torch.ones(2, 5, dtype=torch.int64),)]))), integer_only=True)
    assert targets(stages.integer) == ["embedding", "linear", "requantize"]
    (lookup,) = stages.integer.graph.find_nodes(op="call_function", target=EMBEDDING)
    (fake,) = [node for node in stages.simulated.graph.nodes if node.name == "embedding_q"]
    assert arguments(fake)["scale"] == pytest.approx(9 / 127)
    table = stages.integer.tensors[str(arguments(lookup)["weight"].target)]
    assert table.dtype == torch.int8
    assert torch.equal(table, torch.round(program.tensors["table.weight"] / (9 / 127)).clamp(-128, 127).to(torch.int8))
    ids = torch.arange(30).reshape(6, 5)
    looked_up = values(stages.integer, ids)[lookup.name]
    assert torch.equal(looked_up, table[ids])


def _probabilities(body: Any, *shape: int) -> Program:
    program = captured(Function(body), *shape)
    return quantized(program, measured(program), integer_only=True).integer


def test_probabilities_count_256ths_and_are_those_of_the_scores() -> None:
    integer = _probabilities(lambda x: (3 * x).softmax(-1), 2, 3, 7)
    assert targets(integer) == ["lut", "softmax"]
    assert verify(integer).stage == "integer"
    (node,) = integer.graph.find_nodes(op="call_function", target=_fxp.softmax.default)
    (table,) = [tensor for name, tensor in integer.tensors.items() if name.endswith(".exponentials")]
    assert (table.dtype, int(table[0])) == (torch.int32, 1 << 14)
    found = values(integer, torch.randn(5, 3, 7))
    scores, probabilities = (found[part.name].double() for part in (arguments(node)["x"], node))
    scale = -float(torch.log(table[1].double() / table[0]))
    exact = torch.softmax(scores * scale, -1)
    # half of 2**-8, the rounding of a table of 14 bits and of the scale read off it, and 1 itself is 255/256
    assert float((probabilities * PROBABILITIES.scale - exact).abs().max()) <= 2.0**-9 + 2.0**-8 * float(exact.max() > 0.998) + 1e-3


def test_probabilities_of_an_unsigned_value() -> None:
    """The operator takes no u8, so the value is halved first."""
    program = captured(Function(lambda x: functional.relu(x).softmax(-1)), 2, 3, 7)
    stages = quantized(program, measured(program), integer_only=True)
    assert targets(stages.integer) == ["lut", "requantize", "softmax"]
    for batch in (1, 3):
        (x,) = sample(program, batch, seed=7)
        assert difference(program.run(x), stages.integer.run(x)).sqnr >= 30


class Mixing(nn.Module):
    """Attention without layers of its own: the sequence meets itself."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


@pytest.mark.parametrize(
    ("most", "body", "reason"),
    [
        (None, Mixing(), "softmax_int: it has any number of values in a row, 65536 fit 32 bits (capture the dimension with Dim(max=N))"),
        (70_000, Mixing(), "softmax_int: it has up to 70000 values in a row, 65536 fit 32 bits (capture the dimension with Dim(max=N))"),
        (70_000, lambda x: x.transpose(1, 2) @ x.tanh(), "matmul: it has up to 70000 products in a sum, 65536 fit 32 bits"),
    ],
)
def test_a_length_that_may_leave_32_bits_is_refused_with_the_bound(most: int | None, body: nn.Module, reason: str) -> None:
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=most) if most else torch.export.Dim("seq")},)
    model = body if isinstance(body, nn.Module) else Function(body)
    program = capture(model.eval(), (torch.zeros(2, 5, 4),), dynamic_shapes=shapes)
    with pytest.raises(RefusalError) as caught:
        Pipeline.parse("quantize-dyadic{integer_only=true}").run(program, [(torch.randn(2, 5, 4),)])
    assert reason in str(caught.value)
