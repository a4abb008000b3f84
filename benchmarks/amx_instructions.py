"""The self-test of the instructions that kernels count on ==> a library for each, and what it has to give at their extremes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import tvm
from fxpress_backends.tvm import cpu, selftest
from fxpress_backends.tvm.islands import ENTRY
from fxpress_backends.tvm.lower import _KEPT_WHOLE, _LOWERING
from torch import Tensor
from tvm import relax

CASES = 4 * 4 * 2
"""As `selftest.is_exact` tries them."""


def libraries(folder: Path) -> Iterator[tuple[str, Path, dict[str, Tensor]]]:
    """For each instruction its name, its library in `folder`, and a file for `run.cpp`: sums, both operands, and the results."""
    *_, card = cpu.levels(())
    for level in card.features:
        features = card.features[: card.features.index(level) + 1]
        for number, (body, first, second, result, wanted) in enumerate(selftest._TESTS.get(level, ())):
            name = f"{level}-{number}"
            _build(selftest._function(body, result, first, second), features, (result, first, second), folder / f"{name}.so")
            yield name, folder / f"{name}.so", _tensors(first, second, result, wanted)


def _build(function: tvm.tirx.PrimFunc, features: tuple[str, ...], kinds: tuple[tuple[str, int], ...], library: Path) -> None:
    """Every case is a call."""
    builder = relax.BlockBuilder()
    types = [relax.TensorType((count,), kind) for kind, count in kinds]
    operands = [[relax.Var(f"x{case}_{number}", each) for number, each in enumerate(types)] for case in range(CASES)]
    with builder.function(ENTRY, [operand for case in operands for operand in case]):
        called = builder.add_func(function.with_attr("global_symbol", "instruction"), "instruction")
        results = [builder.emit(relax.op.call_tir_inplace(called, case, [0], types[0])) for case in operands]
        builder.emit_func_output(relax.Tuple(results))
    target = tvm.target.Target(cpu.llvm_target(cpu.native(features)))
    with tvm.transform.PassContext(disabled_pass=_KEPT_WHOLE):
        pipeline = tvm.transform.Sequential(list(_LOWERING))
        relax.build(builder.get(), target, relax_pipeline=pipeline).export_library(str(library))


def _tensors(
    first: tuple[str, int], second: tuple[str, int], result: tuple[str, int], wanted: Callable[..., selftest.Numbers]
) -> dict[str, Tensor]:
    found = {}
    for case in range(CASES):
        x, w = selftest._extremes(*first, case % 4), selftest._extremes(*second, case // 4 % 4)
        y = selftest._extremes(*result, 2 * (case // 16) + 1)
        for number, (values, kind) in enumerate(((y, result[0]), (x, first[0]), (w, second[0]))):
            found[f"input.{3 * case + number}"] = torch.from_numpy(values.astype(kind))
        found[f"output.{case}"] = torch.from_numpy(wanted(x, w, y).astype(result[0]))
    return found
