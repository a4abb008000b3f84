"""What the verifier says: a certificate with facts computed by hand, or one line and a note for each violation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_ir import Certificate, Edit, capture, verify
from fxpress_ir.errors import VerifyError
from fxpress_ir.verify import RULES
from support import aten, built, fxp, multipliers
from torch import Tensor, fx, nn

S8, U8 = torch.int8, torch.uint8


def test_the_first_violation_is_the_message_and_all_are_notes_with_their_nodes() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        a = edit.call(aten.div.Tensor, x, x, name="a")
        return edit.call(aten.floor_divide.default, a, x, name="b")

    with pytest.raises(VerifyError) as caught:
        verify(built((1, 3), body, dtype=torch.uint8))
    assert str(caught.value) == "integer program, a: aten.div.Tensor is not an integer operator; broken rule: known_integer_operators"
    assert caught.value.__notes__ == [
        "a: aten.div.Tensor is not an integer operator (rule known_integer_operators)\n    a = aten.div.Tensor(x, x) : f32[batch, 3]",
        "b: aten.floor_divide.default is not an integer operator (rule known_integer_operators)"
        "\n    b = aten.floor_divide(a, x) : f32[batch, 3]",
    ]


class Shaped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1).relu()


def test_the_size_of_a_float_input_may_shape_integers() -> None:
    program = capture(Shaped(), (torch.zeros(1, 3, 2),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    edit = program.edit()
    x, view = edit.here(program.placeholders()[0]), edit.graph.find_nodes(op="call_function", target=aten.view.default)[0]
    with edit.graph.inserting_after(x):
        view.replace_input_with(x, edit.call(fxp.quantize.default, x, 0.5, -128, 127, S8))
    edit.replace(edit.here(program.outputs()[0]), view)
    integer = edit.finish(stage="integer")
    assert aten.sym_size.int in {user.target for user in integer.placeholders()[0].users}
    verify(integer)
    assert integer.run(torch.ones(3, 3, 2))[0].tolist() == [[2] * 6] * 3


def test_the_facts_of_a_certificate_are_the_ones_computed_by_hand() -> None:
    """x in [0, 255], w = (3, -2), bias -7; b = 50, c = 6, range [-128, 127]."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", torch.tensor([[3, -2]], dtype=S8))
        acc = edit.call(fxp.linear.default, x, weight, edit.add_tensor("bias", multipliers([-7])), name="acc")
        return edit.call(fxp.requantize.default, acc, edit.add_tensor("b", multipliers([50])), 6, -128, 127, -1, S8, name="y")

    def fact(node: str, what: str, low: int, high: int, least: int, most: int) -> dict[str, Any]:
        return {"node": node, "what": what, "low": low, "high": high, "least": least, "most": most}

    int32 = (-(2**31), 2**31 - 1)
    program = built((1, 2), body, dtype=U8)
    assert verify(program) == Certificate(
        stage="integer",
        program_hash=program.hash,
        rules=tuple(rule.__name__ for rule in RULES["integer"]),
        facts=(
            fact("acc", "accumulator (any order)", -(5 * 255 + 7), 5 * 255 + 7, *int32),
            fact("y", "multiplier", 50, 50, 1, 2**15 - 1),
            fact("y", "pre-clip bounds", -164, 162, *int32),  # floor(-255 * 32 / 50), 253 * 32 // 50 + 1; acc reaches [-517, 758]
            fact("y", "shift", 6, 6, 1, 16),
            fact("y", "product and rounding term", -164 * 50, 162 * 50 + 32, *int32),
            fact("y", "result", -128, 127, -128, 127),
        ),
    )
