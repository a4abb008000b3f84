"""Small models with weights that matter, and the check that every test of coupled dimensions ends in: masked == sliced."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from fxpress_ir import Program, capture
from fxpress_ir.analysis.coupling import Groups, coupled_groups
from fxpress_ir.slicing import Plan, mask_atoms, slice_atoms
from torch import Tensor, nn
from torch.export import Dim

RTOL = 2e-5
"""Zeros are left out of float32 sums of a few hundred products: the order of the others may change, and then one rounding each."""


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode; every weight, bias and statistic is such that each channel tells in the outputs."""
    generator = torch.Generator().manual_seed(seed)
    statistics = [buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    with torch.no_grad():
        for tensor in [*model.parameters(), *statistics]:
            if tensor.dim() > 1:
                tensor.normal_(generator=generator).div_(max(1, tensor[0].numel()) ** 0.5)
            else:
                tensor.uniform_(0.4, 1.2, generator=generator)
    return model.eval()


def captured(model: nn.Module, *inputs: Tensor, dynamic: Sequence[str] = ("batch",), seed: int = 0) -> Program:
    """The drawn model as a program; the first dimensions of all inputs are symbolic, as many as `dynamic` names.

    Exported as it runs, which takes half the time of a strict export; dimensions lose their names.
    """
    sizes = {place: Dim(name, max=64) for place, name in enumerate(dynamic)}
    inputs = tuple(value.repeat_interleave(2, 0) if len(value) == 1 else value for value in inputs)
    return capture(torch.export.export(drawn(model, seed), inputs, dynamic_shapes=tuple(sizes for _ in inputs), strict=False))


def table(groups: Groups) -> dict[str, tuple[Any, ...]]:
    """name ==> atoms, then sites in alphabetical order, for the groups that can shrink."""
    return {group.name: (group.size, *sorted(map(str, group.sites))) for group in groups.prunable}


def chosen(groups: Groups, seed: int = 0, *, exact: bool = True) -> dict[str, tuple[int, ...]]:
    """Random atoms of every group that can shrink, and if `exact` of none for which zeros are not the same; one at least leaves."""
    draw = random.Random(seed)
    found = {}
    for group in groups.prunable:
        if group.exact or not exact:
            found[group.name] = tuple(sorted(draw.sample(range(group.size), draw.randint(1, group.size - 1))))
    return found


def check_sliced(
    program: Program, inputs: Iterable[Sequence[Tensor]], keep: dict[str, tuple[int, ...]] | None = None, seed: int = 0
) -> Program:
    """Masked == sliced, both unlike the whole program, and the sliced one smaller; `inputs` of several sizes."""
    groups = coupled_groups(program)
    plan = Plan.of(program, chosen(groups, seed) if keep is None else keep)
    assert plan.keep
    sliced, masked = slice_atoms(program, plan), mask_atoms(program, plan)
    assert sliced.cost().parameters < program.cost().parameters == masked.cost().parameters
    assert [program.shape_of(node) for node in program.outputs()] == [sliced.shape_of(node) for node in sliced.outputs()]
    for values in inputs:
        for found, wanted, whole in zip(sliced.run(*values), masked.run(*values), program.run(*values), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=RTOL * float(wanted.abs().max()))
            assert not torch.allclose(whole, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))
    return sliced
