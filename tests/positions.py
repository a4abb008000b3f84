"""A program of positions in every form, and masks padded right, left, between and altogether."""

from __future__ import annotations

import torch
from fxpress_ir import Edit, Program
from several import several
from support import fxp
from torch import Tensor, fx

FORMS = ((-1, -(1 << 30), 1), (-1, 0, None), (1, -(1 << 30), 1), (0, 3, -2))


def positions() -> Program:
    """[batch, seq] and [batch, 3, seq], offset, least and hidden as in `FORMS`."""

    def body(edit: Edit, x: fx.Node, y: fx.Node) -> list[fx.Node]:
        return [edit.call(fxp.positions.default, mask, *form) for mask in (x, y) for form in FORMS]

    return several([(("batch", "seq"), torch.bool), (("batch", 3, "seq"), torch.bool)], body, {"seq": 64})


def masks(batch: int, length: int) -> list[Tensor]:
    """The first row sees all, the second nothing, the third the last ones, others any."""
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) < 0.6
    mask[0], mask[1:2], mask[2:3] = True, False, torch.arange(length) >= length // 2
    return [mask, torch.stack([mask, mask.flip(-1), ~mask], 1)]
