"""Program, atoms that stay ==> Program without the others: tensors are sliced, arguments that name sizes are rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..program import Program
from ..verify import verify
from .plan import Plan, kept_atoms
from .rewrite import Shrunk, rewrite


def slice_atoms(program: Program, keep: Plan | Mapping[str, Sequence[int]]) -> Program:
    """The program without the atoms that `keep` leaves out; groups that it does not name stay whole.

    Inputs and outputs keep their shapes, symbolic sizes stay symbolic. The same program where nothing leaves.

    Args:
        keep: for each group (`coupled_groups`) the numbers of the atoms that stay.

    Raises:
        ProgramError: a group is unknown or cannot shrink; no atom of it stays, or one is named twice or out of range; a plan
            is of another program.
    """
    groups, leaving = kept_atoms(program, keep)
    if not len(leaving):
        return program
    edit = program.edit()
    for name, dimensions in groups.tensors.items():
        edit.tensors[name] = _sliced(program.tensors[name], dimensions, leaving)
    for node in program.graph.nodes:
        if node.op == "call_function" and groups.is_labelled(node):
            rewrite(Shrunk(node, edit.here(node), groups, leaving))
    result = edit.finish()
    verify(result)
    return result


def _sliced(tensor: Tensor, dimensions: Sequence[NDArray[np.int64] | None], leaving: NDArray[np.int64]) -> Tensor:
    for position, atoms in enumerate(dimensions):
        if atoms is not None:
            stays = ~np.isin(atoms, leaving)
            if not stays.all():
                tensor = tensor.detach().index_select(position, torch.from_numpy(np.flatnonzero(stays)).to(tensor.device))
    return tensor
