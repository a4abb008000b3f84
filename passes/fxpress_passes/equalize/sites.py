"""A value that linear layers read ==> who can scale and shift its channels without a further operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.cones import Cones, constant_axis
from fxpress_ir.analysis.sizes import concrete, concrete_size, symbols
from fxpress_ir.ops import SHAPE_OPERATORS, SIZE_OPERATORS, arguments
from torch import Tensor, fx
from torch.fx.node import map_arg

_aten = torch.ops.aten
_NORMS = (_aten.layer_norm.default, _aten.rms_norm.default)
_HOMOGENEOUS = frozenset({_aten.relu.default, _aten.leaky_relu.default})
"""f(a x) = a f(x) for a > 0."""


@dataclass(frozen=True)
class Site:
    """A value, the linear layers that read it, and what takes its channels' factors up.

    Attributes:
        value: float32, channels last.
        readers: ``aten.linear`` nodes with constant weights.
        kind: ``norm``: a normalisation's gain and shift; ``rows``: the rows of a linear layer; ``table``: an elementwise
            function, a table in integers that may differ by channel.
        producer: the normalisation, the linear layer, or the function's last operator.
        before: of a table: the linear layer that it alone reads, and the function's operators that do.
        rows: for each channel the row that it comes from, int64 [channels]; several channels may share one.
        shifts: a constant may be subtracted too.
    """

    value: fx.Node
    readers: tuple[fx.Node, ...]
    kind: Literal["norm", "rows", "table"]
    producer: fx.Node
    before: tuple[fx.Node, tuple[fx.Node, ...]] | None = None
    rows: Tensor | None = None
    shifts: bool = True


def sites(program: Program) -> Iterator[Site | tuple[fx.Node, str]]:
    """Every value that linear layers read: its site, or why it has none."""
    readers: dict[fx.Node, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if is_layer(node):
            readers.setdefault(node.args[0], []).append(node)
    cones = Cones(program.graph, ())
    for value, layers in readers.items():
        if value.op != "call_function" or not isinstance(value.meta["val"].shape[-1], int):
            yield layers[0], "nothing that could be scaled comes before it"
            continue
        yield _site(program, cones, value, tuple(layers)) or (layers[0], f"its input comes from {value.target}, which takes no factors")


def is_layer(node: fx.Node) -> bool:
    """A linear layer in float32 whose weight and bias are constants."""
    if node.target is not _aten.linear.default or node.meta["val"].dtype != torch.float32:
        return False
    named = arguments(node)
    return named["weight"].op == "get_attr" and (named["bias"] is None or named["bias"].op == "get_attr")


def _site(program: Program, cones: Cones, value: fx.Node, readers: tuple[fx.Node, ...]) -> Site | None:
    own = _users(value) <= set(readers)
    if value.target in _NORMS and len(arguments(value)["normalized_shape"]) == 1:
        return Site(value, readers, "norm", value, shifts=value.target is _aten.layer_norm.default)
    if own and (found := _rows(program, value, readers)) is not None:
        return found
    root = cones.root(value)
    if root is None:
        return None
    between = cones.inside(value)
    if any(constant_axis(node) not in (None, value.meta["val"].dim() - 1) for node in between):
        return None
    before = (
        (root, tuple(user for user in between if user in _users(root))) if own and is_layer(root) and _users(root) <= set(between) else None
    )
    return Site(value, readers, "table", value, before)


def _users(value: fx.Node) -> set[fx.Node]:
    """Who reads the numbers of a value, not its sizes alone."""
    return {user for user in value.users if user.target not in SIZE_OPERATORS}


def _rows(program: Program, value: fx.Node, readers: tuple[fx.Node, ...]) -> Site | None:
    """The rows of the one linear layer that every channel of `value` is proportional to."""
    path, node, shifts = [value], value, True
    while not is_layer(node):
        if node.target in SHAPE_OPERATORS or node.target in _HOMOGENEOUS:
            shifts &= node.target in SHAPE_OPERATORS
            source = node.args[0]
        elif node.target is _aten.matmul.default and _are_probabilities(node.args[0]):
            shifts &= node.args[0].target is _aten.softmax.int  # type: ignore[union-attr]
            source = node.args[1]
        elif node.target is _aten.mul.Tensor and isinstance(node.args[1], fx.Node):
            shifts = False
            source = next((factor for factor in node.args[:2] if _is_whole(factor, node)), None)
        else:
            return None
        if not isinstance(source, fx.Node) or len(_users(source)) != 1:
            return None
        node = source
        path.append(node)
    rows = _sources(program, path[::-1])
    return None if rows is None else Site(value, readers, "rows", node, rows=rows, shifts=shifts)


def _is_whole(factor: object, product: fx.Node) -> bool:
    """A linear layer's result that a product does not broadcast; as text, because a comparison would be remembered."""
    return isinstance(factor, fx.Node) and is_layer(factor) and str(factor.meta["val"].shape) == str(product.meta["val"].shape)


def _are_probabilities(node: object) -> bool:
    """Rows that sum to 1, so that a constant passes through a product with them; those of a safe softmax may sum to 0."""
    if not isinstance(node, fx.Node) or node.target not in (_aten.softmax.int, _aten._safe_softmax.default):
        return False
    return bool(arguments(node)["dim"] % node.meta["val"].dim() == node.meta["val"].dim() - 1)


def _sources(program: Program, path: list[fx.Node]) -> Tensor | None:
    """For each channel at the path's end its row at the beginning, by sending the rows' numbers along it; None where rows mix."""
    examples = symbols(node.meta["val"] for node in program.graph.find_nodes(op="placeholder"))
    sizes = {name: 2 if example is None else max(2, example.size) for name, example in examples.items()}
    first = path[0].meta["val"].shape
    here = torch.arange(first[-1], dtype=torch.float64).expand([concrete_size(size, sizes) for size in first])

    def value(used: fx.Node) -> Any:
        return here if used in path else concrete(used.meta["val"], sizes)

    for node in path[1:]:
        if node.target is _aten.matmul.default:
            shape = [concrete_size(size, sizes) for size in node.args[0].meta["val"].shape]  # type: ignore[union-attr]
            here = torch.full(shape, 1.0 / shape[-1], dtype=torch.float64) @ here
        elif node.target in SHAPE_OPERATORS:
            args, kwargs = map_arg((node.args, node.kwargs), value)
            here = node.target(*args, **kwargs)
    rows = here.reshape(-1, here.shape[-1]).round()
    alike = torch.equal(rows, rows[:1].expand_as(rows)) and bool((rows[0] - here.reshape(-1, here.shape[-1])).abs().max() < 1e-6)
    return rows[0].to(torch.int64) if alike else None
