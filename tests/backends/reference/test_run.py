"""The interpreter against the program in PyTorch, node by node, and what it keeps alive."""

from __future__ import annotations

import operator
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.reference import REFERENCE, Interpreter
from fxpress_ir import Edit, Program, verify
from fxpress_ir.errors import BackendError
from support import aten, built, conv, fxp, multipliers, residual_net
from torch import fx


def node_values(program: Program, *inputs: torch.Tensor) -> dict[str, Any]:
    """What every node of the program computes in PyTorch."""
    values: dict[str, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    Recorder(program.module).run(*inputs)
    return values


@pytest.mark.parametrize("batch", [1, 7])
def test_a_residual_net_gives_the_bits_of_pytorch(batch: int) -> None:
    program = residual_net()
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
    (expected,) = program.run(x)
    (result,) = Interpreter.of(program).run([x.numpy()])
    assert result.dtype == np.float32
    assert result.tobytes() == expected.numpy().tobytes()
    assert len(np.unique(result)) > batch  # saturated logits would agree by accident


def test_observe_sees_every_node_with_its_bits() -> None:
    program = residual_net(seed=1)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = node_values(program, x)
    seen: dict[str, Any] = {}
    Interpreter.of(program, seen.__setitem__).run([x.numpy()])
    assert list(seen) == [node.name for node in program.graph.nodes if node.op == "call_function"]
    for name, array in seen.items():
        np.testing.assert_array_equal(array, expected[name].numpy(), err_msg=name)


def test_values_are_freed_after_their_last_use() -> None:
    program = residual_net()
    references: list[Any] = []
    alive: list[int] = []

    def count(_: str, array: Any) -> None:
        references.append(weakref.ref(array))
        alive.append(sum(reference() is not None for reference in references))

    Interpreter.of(program, count).run([np.zeros((1, 3, 8, 8), np.float32)])
    assert max(alive) <= 4  # a convolution's input, the shortcut, the result and the value just replaced
    assert alive[-1] <= 2


def _token_major(edit: Edit, x: fx.Node) -> fx.Node:
    """int8 in, int8 out; sizes are computed from the dynamic batch."""
    y = conv(edit, x, torch.full((4, 2, 1, 1), 127, dtype=torch.int8), None, multipliers([70, 90, 110, 130]), 14, relu=False, padding=0)
    batch = edit.call(aten.sym_size.int, x, 0)
    rows = edit.call(operator.mul, batch, 9)
    tokens = edit.call(aten.view.default, edit.call(aten.contiguous.default, edit.call(aten.permute.default, y, [0, 2, 3, 1])), [rows, 4])
    half = edit.call(operator.floordiv, edit.call(operator.sub, edit.call(operator.add, rows, rows), rows), 9)
    return edit.call(aten.unsqueeze.default, edit.call(aten.reshape.default, tokens, [half, 3, 12]), 1)


@pytest.mark.parametrize("batch", [1, 5])
def test_integer_borders_and_size_arithmetic(batch: int) -> None:
    program = built((2, 2, 3, 3), _token_major, dtype=torch.int8)
    verify(program)
    x = torch.randint(-128, 128, (batch, 2, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    (result,) = Interpreter.of(program).run([x.numpy()])
    assert result.dtype == np.int8
    np.testing.assert_array_equal(result, program.run(x)[0].numpy())


def test_an_operator_without_a_kernel_is_refused_by_name() -> None:
    program = built((2, 4), lambda edit, x: edit.call(aten.neg.default, edit.call(fxp.quantize.default, x, 0.1, -127, 127, torch.int8)))
    (refusal,) = REFERENCE.legalize(program, REFERENCE.targets()[0])
    assert (refusal.node, refusal.reason) == ("neg_default", "aten.neg has no reference kernel")


def test_an_unknown_option_is_refused(tmp_path: Any) -> None:
    with pytest.raises(BackendError, match="unknown option 'providers'; it takes observe and threads"):
        REFERENCE.load(tmp_path, {}, {"providers": ["CPUExecutionProvider"]})
