"""fxp.rotary in NumPy: the torch operator's bits over shapes and extremes, and tables that were moved, sliced by a size among them."""

from __future__ import annotations

import numpy as np
import torch
from fxpress_backends.reference.kernels import KERNELS
from fxpress_backends.reference.run import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from support import aten, attending_net, fxp, turned_by_length

RESULTS = ((-128, 127, torch.int8), (0, 200, torch.uint8), (-32768, 32767, torch.int16))


def codes(seed: int, shape: tuple[int, ...], low: int, high: int, dtype: type) -> np.ndarray:
    """The ends often."""
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < 0.3, random.choice([low, high], shape), random.integers(low, high + 1, shape)).astype(dtype)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(6, 4), (2, 3, 10), (2, 3, 4, 2), (1, 2, 3, 16)]),
    st.sampled_from([np.int8, np.int16]),
    st.integers(0, 3),
    st.integers(1, 15),
    st.sampled_from(RESULTS),
)
def test_rotary(seed: int, shape: tuple[int, ...], kind: type, spread: int, c: int, limits: tuple[int, int, torch.dtype]) -> None:
    """Tables of the shape of x, less its first dimensions, of one row, or of size 1 along some."""
    table = (shape, shape[1:], (1,) * (len(shape) - 1) + shape[-1:], (*shape[:-1], 1))[spread]
    most = 32767 if kind is np.int8 else 16384
    x = codes(seed, shape, np.iinfo(kind).min, np.iinfo(kind).max, kind)
    tables = [codes(seed + place, table, -most, most, np.int16) for place in (1, 2)]
    qmin, qmax, dtype = limits
    found = KERNELS["fxp.rotary"](x, *tables, c, qmin, qmax, str(dtype).removeprefix("torch."))
    expected = fxp.rotary(torch.from_numpy(x), *map(torch.from_numpy, tables), c, *limits)
    assert found.dtype == expected.numpy().dtype
    assert np.array_equal(found, expected.numpy())


def test_a_net_of_transformers_gives_the_bits_of_pytorch() -> None:
    program = attending_net()
    x = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(Interpreter.of(program).run([x.numpy()])[0], program.run(x)[0].numpy())


def test_tables_sliced_by_a_size_of_the_input() -> None:
    program = turned_by_length()
    assert program.shape_of(program.outputs()[0]) == ("batch", "seq", 6)
    for batch, length in ((1, 1), (3, 2), (2, 9)):
        x = torch.from_numpy(codes(length, (batch, length, 6), -128, 127, np.int8))
        (found,) = Interpreter.of(program).run([x.numpy()])
        cosine, sine = (program.tensors[name][:length] for name in ("cosine", "sine"))
        assert np.array_equal(found, fxp.rotary(x, cosine, sine, 14, -128, 127, torch.int8).numpy())
        assert np.array_equal(found, program.run(x)[0].numpy())


def test_a_size_is_a_bound_of_a_slice_of_a_value_too() -> None:
    program = turned_by_length()
    edit = program.edit()
    x, old = edit.graph.find_nodes(op="placeholder")[0], edit.here(program.outputs()[0])
    with edit.graph.inserting_before(edit.graph.output_node()):
        rows = edit.call(aten.expand.default, edit.call(aten.unsqueeze.default, old, 1), [-1, 9, -1, -1])
        new = edit.call(aten.slice.Tensor, rows, 1, 0, edit.call(aten.sym_size.int, x, 1))
    edit.graph.output_node().args = ((new,),)
    program = edit.finish()
    assert program.shape_of(program.outputs()[0]) == ("batch", "seq", "seq", 6)
    values = torch.from_numpy(codes(1, (2, 5, 6), -128, 127, np.int8))
    (found,) = Interpreter.of(program).run([values.numpy()])
    assert found.shape == (2, 5, 5, 6)
    assert np.array_equal(found, program.run(values)[0].numpy())
