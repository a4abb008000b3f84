"""head of A, tail of B ==> one program, joined by the affine map that least squares finds (SN-Net, Pan et al. 2023, M83)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.analysis.blocks import residual_blocks
from fxpress_ir.digest import digest
from fxpress_ir.errors import PassError
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..evidence import Calibration
from .probe import probe, vectors

_aten = torch.ops.aten
_CHANNELS_FIRST = frozenset({"conv1d", "conv2d", "batch_norm", "group_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"})
_CONVOLUTIONS = {3: (_aten.conv1d.default, [1], [0]), 4: (_aten.conv2d.default, [1, 1], [0, 0])}
"""By rank: the convolution of a window of one, its stride and its padding."""


def stitch(a: Program, b: Program, at: tuple[int | str, int | str], calibration: Iterable[Any]) -> Program:
    """`a` up to one value, a linear layer (images: a 1x1 convolution), `b` from one value on; nothing is trained.

    The layer is the least-squares fit of b's value to a's on calibration data. Where only a linear layer stands before it or
    behind it, `fuse-linear` folds it away.

    Args:
        a, b: float programs of the same inputs; what b's tail reads beside the value is computed as b does.
        at: how many residual blocks of `a` run and how many of `b` are left out; or names of nodes whose values meet.
        calibration: batches of inputs.

    Raises:
        PassError: the programs take other inputs or are not float; a place does not exist, or its value is no float tensor; the
            values differ in more than the number of features.
        CalibrationError: no usable calibration data, or values that are not finite.
    """
    for program in (a, b):
        if program.stage != "float":
            raise PassError(f"a program is {program.stage}", where="stitch", way_on="stitch float programs, then quantise")
    if a.inputs != b.inputs:
        what = f"one takes {', '.join(map(str, a.inputs))}, the other {', '.join(map(str, b.inputs))}"
        raise PassError(what, where="stitch", way_on="capture both with inputs of the same names, types and sizes")
    here, there = _place(a, at[0]), _place(b, at[1])
    dim = 1 if len(b.shape_of(there)) in _CONVOLUTIONS and _is_channels_first(there) else -1
    _check_alike(a, here, b, there, dim)
    weight, bias = _least_squares(a, here, b, there, dim, Calibration(calibration))
    return _joined(a, here, b, there, weight, bias, dim).noted(f"stitch{{at=[{_json(at[0])}, {_json(at[1])}]}}")


def _json(place: int | str) -> str:
    return str(place) if isinstance(place, int) else f'"{place}"'


def _place(program: Program, place: int | str) -> fx.Node:
    """The stream after so many blocks, or the node of this name."""
    blocks = residual_blocks(program)
    if isinstance(place, int):
        if not blocks or not 0 <= place <= len(blocks):
            way_on = f"0 to {len(blocks)}, or a node's name" if blocks else "name nodes: print(program)"
            raise PassError(f"at={place} of {len(blocks)} residual blocks", where="stitch", way_on=way_on)
        return blocks[place - 1].output if place else blocks[0].input
    found: list[fx.Node] = [node for node in program.graph.nodes if node.name == place]
    value = found[0].meta.get("val") if found else None
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2 or found[0].op == "get_attr":
        raise PassError(f"at={place!r} is no value of vectors", where="stitch", way_on="name nodes of both: print(program)")
    return found[0]


def _is_channels_first(node: fx.Node) -> bool:
    """It is made or read by an operator that mixes dimension 1."""
    return any(getattr(near.target, "_opname", "") in _CHANNELS_FIRST for near in (node, *node.users))


def _check_alike(a: Program, here: fx.Node, b: Program, there: fx.Node, dim: int) -> None:
    shapes = [list(a.shape_of(here)), list(b.shape_of(there))]
    kept = [[size for place, size in enumerate(shape) if place != dim % len(shape)] for shape in shapes]
    if kept[0] != kept[1] or here.meta["val"].dtype != there.meta["val"].dtype:
        what = f"{here.name} is {shapes[0]}, {there.name} {shapes[1]}"
        raise PassError(what, where="stitch", way_on="choose places where they differ in features alone")


def _least_squares(a: Program, here: fx.Node, b: Program, there: fx.Node, dim: int, data: Calibration) -> tuple[Tensor, Tensor]:
    """M and m that minimise ||x M^T + m - y||^2 over all vectors, the smallest of equals; summed and solved in float64."""
    head, tail = probe(a, [here.name]), probe(b, [there.name])
    width, wide = (int(node.meta["val"].shape[dim]) for node in (here, there))
    squares, products = torch.zeros(width + 1, width + 1, dtype=torch.float64), torch.zeros(width + 1, wide, dtype=torch.float64)
    with torch.no_grad():
        for batch in data.batches(a):
            (x,), (y,) = head(*batch), tail(*batch)
            rows = vectors(x, dim)
            rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
            squares += rows.T @ rows
            products += rows.T @ vectors(y, dim)
    if not bool(squares.isfinite().all() and products.isfinite().all()):
        raise PassError("values at the stitch are NaN or infinite", where="stitch", way_on="check the models and the data")
    found = (torch.linalg.pinv(squares, hermitian=True) @ products).T.to(here.meta["val"].dtype)
    return found[:, :-1].contiguous(), found[:, -1].contiguous()


def _joined(a: Program, here: fx.Node, b: Program, there: fx.Node, weight: Tensor, bias: Tensor, dim: int) -> Program:
    edit = a.edit()
    output = edit.graph.output_node()
    with edit.graph.inserting_before(output):
        nodes = {there: _stitched(edit, edit.here(here), weight, bias, dim)}
        nodes.update(zip(b.placeholders(), map(edit.here, a.placeholders()), strict=True))
        stored = {str(node.target): edit.here(node) for node in a.graph.find_nodes(op="get_attr")}
        for node in _needed(b, there):
            if node.op == "get_attr":
                name, tensor = str(node.target), b.tensors[str(node.target)]
                known = name in stored and digest(a.tensors[name]) == digest(tensor)
                nodes[node] = stored[name] if known else edit.add_tensor(name, tensor)
            elif node not in nodes:
                nodes[node] = edit.graph.node_copy(node, nodes.__getitem__)
                nodes[node].meta.pop("val", None)  # its sizes are another program's
    output.args = (map_arg(b.graph.output_node().args[0], nodes.__getitem__),)
    return edit.finish()


def _stitched(edit: Edit, x: fx.Node, weight: Tensor, bias: Tensor, dim: int) -> fx.Node:
    if dim == -1:
        return edit.call(_aten.linear.default, x, edit.add_tensor("stitch.weight", weight), edit.add_tensor("stitch.bias", bias))
    target, stride, padding = _CONVOLUTIONS[x.meta["val"].dim()]
    window = weight.reshape(*weight.shape, *[1] * len(stride))
    return edit.call(target, x, edit.add_tensor("stitch.weight", window), edit.add_tensor("stitch.bias", bias), stride, padding)


def _needed(program: Program, cut: fx.Node) -> list[fx.Node]:
    """The nodes that compute the outputs, in order, given the value of `cut`."""
    needed, waiting = set[fx.Node](), [node for node in program.outputs() if node is not cut]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += [used for used in node.all_input_nodes if used is not cut]
    return [node for node in program.graph.nodes if node in needed]
