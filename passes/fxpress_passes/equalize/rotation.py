"""A matrix and where it goes ==> the program with it folded into the weights there, or as a layer of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .hadamard import blocks
from .layers import constant, rewrite
from .residual import Residual

_aten = torch.ops.aten


def turned(part: Tensor, x: Tensor) -> Tensor:
    """Blocks of the last dimension of `x`, each multiplied by `part`, float64 [block, block]."""
    parts = x.reshape(*x.shape[:-1], -1, len(part))
    return torch.matmul(parts, part.T.to(x.dtype)).reshape(x.shape)


def gain_and_shift(tensors: Mapping[str, Tensor], norm: fx.Node, width: int) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies by and adds afterwards, float64 [width] each."""
    named = arguments(norm)
    gain, shift = (None if named.get(part) is None else tensors[str(named[part].target)].detach().double() for part in ("weight", "bias"))
    return torch.ones(width).double() if gain is None else gain, torch.zeros(width).double() if shift is None else shift


def rotate_residual(edit: Edit, stream: Residual, part: Tensor) -> None:
    """A whole residual stream times blocks of `part`: writers, tables and constants; gains, shifts and centring go elsewhere."""
    width = stream.width
    rotation = blocks(part, width)
    matrix = rotation @ (torch.eye(width).double() - 1 / width) if stream.centred else rotation
    for layer, norm in stream.readers:
        if norm is not None:
            gain, shift = gain_and_shift(edit.tensors, edit.here(norm), width)
            rewrite(edit, edit.here(layer), partial(_fold, gain, shift))
        rewrite(edit, edit.here(layer), lambda w, b: (w @ rotation.T, b))
    for writer in stream.writers:
        rewrite(edit, edit.here(writer), lambda w, b: (torch.tensordot(matrix, w, 1), matrix @ b))
    for user, named in [(table, table.args[0]) for table in stream.tables] + list(stream.constants):
        user, held = edit.here(user), edit.here(named)  # type: ignore[arg-type]
        user.replace_input_with(held, constant(edit, user, str(held.target), edit.tensor(held).detach().double() @ matrix.T))
    for norm in map(edit.here, stream.norms):
        named = arguments(norm)
        with edit.graph.inserting_before(norm):
            plain = edit.call(_aten.rms_norm.default, named["input"], named["normalized_shape"], None, named["eps"], like=norm)
        edit.replace(norm, plain)


def _fold(gain: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight * gain, bias + weight @ shift


def rotate_rows(edit: Edit, producer: fx.Node, readers: Sequence[fx.Node], part: Tensor) -> None:
    """Blocks of a linear layer's rows times `part`, undone by the layers behind it."""
    rewrite(edit, edit.here(producer), lambda w, b: (turned(part, w.T).T, turned(part, b)))
    undo(edit, readers, part)


def insert(edit: Edit, value: fx.Node, readers: Sequence[fx.Node], part: Tensor) -> None:
    """A linear layer over blocks of channels in front of `readers`, undone by them."""
    here, width = edit.here(value), int(value.meta["val"].shape[-1])
    with edit.graph.inserting_before(edit.here(readers[0])):
        weight = edit.add_tensor(f"{value.name}.rotation", part.float())
        if len(part) == width:
            rotated = edit.call(_aten.linear.default, here, weight, like=here)
        else:
            shape = value.meta["val"].shape[:-1]
            sizes = [size if isinstance(size, int) else edit.call(_aten.sym_size.int, here, d, like=here) for d, size in enumerate(shape)]
            split = edit.call(_aten.reshape.default, here, [*sizes, width // len(part), len(part)], like=here)
            multiplied = edit.call(_aten.linear.default, split, weight, like=here)
            rotated = edit.call(_aten.flatten.using_ints, multiplied, -2, -1, like=here)
    for reader in map(edit.here, readers):
        reader.replace_input_with(here, rotated)
    undo(edit, readers, part)


def undo(edit: Edit, readers: Sequence[fx.Node], part: Tensor) -> None:
    """Layers whose inputs have been multiplied by blocks of `part`."""
    for reader in readers:
        rewrite(edit, edit.here(reader), lambda w, b: (turned(part, w), b))
