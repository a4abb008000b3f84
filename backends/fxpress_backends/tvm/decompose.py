"""exported ATen operators ==> those that TVM's importer knows, written so that it reads them as torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

_aten = torch.ops.aten
_TORCHS_OWN = (
    _aten.elu.default,  # two of its three factors are overlooked
    _aten.grid_sampler_2d.default,  # read with another shape
    _aten.prod.dim_int,
    _aten.upsample_nearest2d.vec,  # other rows where the factor is no whole number
)
_SCANS = (_aten.cumsum.default, _aten.cumprod.default)
_CHOICES = (_aten.where.self, _aten.masked_fill.Scalar)


def decomposed(exported: ExportedProgram) -> ExportedProgram:
    """The same function in core operators; operands of arithmetic have the type of its result, indices count from the start."""
    result: ExportedProgram = exported.run_decompositions(TABLE)
    for node in list(result.graph.nodes):
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            _convert_operands(result.graph, node)
            if node.target is _aten.index.Tensor:
                _count_from_start(result.graph, node)
            if node.target is _aten.slice.Tensor and len(node.args) > 1:
                source, dimension, *bounds = node.args
                node.args = (source, dimension % len(source.meta["val"].shape), *bounds)
    return result


def _convert_operands(graph: fx.Graph, node: fx.Node) -> None:
    """The importer gives integers that meet a float number, divide or are summed up the type of the integers."""
    value = node.meta.get("val")
    if torch.Tag.pointwise not in node.target.tags and node.target not in _SCANS:  # type: ignore[union-attr]
        return
    if not isinstance(value, Tensor) or value.dtype is torch.bool:
        return
    for operand in node.all_input_nodes:
        given = operand.meta.get("val")
        if not isinstance(given, Tensor) or given.dtype == value.dtype or given.is_floating_point():
            continue
        if given.dtype is torch.bool and node.target in _CHOICES:
            continue
        node.replace_input_with(operand, _before(graph, node, _aten._to_copy.default, operand, dtype=value.dtype))


def _count_from_start(graph: fx.Graph, node: fx.Node) -> None:
    """An index that counts from the end would read other memory, where more than one dimension is indexed."""
    source, indices = node.args
    sizes, wrapped = source.meta["val"].shape, list(indices)  # type: ignore[union-attr, arg-type]
    for dimension, index in enumerate(wrapped):
        if index is not None and index.meta["val"].dtype is not torch.bool and isinstance(sizes[dimension], int):
            wrapped[dimension] = _before(graph, node, _aten.remainder.Scalar, index, sizes[dimension])
    node.args = (source, wrapped)


def _before(graph: fx.Graph, node: fx.Node, operator: Any, *arguments: Any, **named: Any) -> fx.Node:
    values = [argument.meta["val"] if isinstance(argument, fx.Node) else argument for argument in arguments]
    with graph.inserting_before(node):
        made = graph.call_function(operator, arguments, named)
    made.meta |= {"val": operator(*values, **named), "from_node": node.meta.get("from_node", [])}
    return made


def _add(x: Tensor, y: Tensor, *, alpha: float = 1) -> Any:
    """The importer overlooks alpha."""
    return NotImplemented if alpha == 1 else _aten.add.Tensor(x, _aten.mul.Tensor(y, alpha))


def _sub(x: Tensor, y: Tensor, *, alpha: float = 1) -> Any:
    return NotImplemented if alpha == 1 else _aten.sub.Tensor(x, _aten.mul.Tensor(y, alpha))


def _normalized(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Each image's groups of channels to mean 0 and variance 1, then scaled by channel."""
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    result = (centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)).reshape(x.shape)
    by_channel = [1, -1] + [1] * (x.dim() - 2)
    result = result if weight is None else result * weight.reshape(by_channel)
    return result if bias is None else result + bias.reshape(by_channel)


def _group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, cudnn: bool = True
) -> Tensor:
    """The importer asks for a weight."""
    return _normalized(x, groups, weight, bias, eps)


def _instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any) -> Any:
    """torch's own becomes a batch norm of batch x channels channels, which the importer wants to be a number."""
    _, _, of_the_input, _, eps, _ = settings
    return _normalized(x, x.shape[1], weight, bias, eps) if of_the_input else NotImplemented


TABLE: dict[Any, Callable[..., Any]] = {
    **torch.export.default_decompositions(),
    **torch._decomp.get_decompositions(_TORCHS_OWN),
    _aten.add.Tensor: _add,
    _aten.sub.Tensor: _sub,
    _aten.group_norm.default: _group_norm,
    _aten.instance_norm.default: _instance_norm,
}
"""What each operator that is not imported as it is becomes."""
