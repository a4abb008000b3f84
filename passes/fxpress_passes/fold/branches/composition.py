"""Source, node ==> the node as an affine function of the source; which sources a node could be one of."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import map_arg

from .affine import Affine, NotAffine
from .constants import Constants
from .rules import ONE_VARIES, RULES, SAME

PRECISE = (torch.float32, torch.float64)
"""Dtypes in which a composition rounds no more than the operators did."""


def compose(node: fx.Node, sources: Mapping[fx.Node, Any], constants: Constants) -> Affine:
    """`node` as an affine function of `sources`: one value and what it is.

    Raises:
        NotAffine: it is none; the message names the node and the reason.
    """
    known: dict[fx.Node, Any] = dict(sources)
    for part in between(node, [*sources], constants):
        try:
            known[part] = _composed(part, known, constants)
        except NotAffine as reason:
            raise NotAffine(str(reason) if part is node else f"{part.name}: {reason}") from reason
    value: Affine = known[node]
    return value


def between(node: fx.Node, sources: list[fx.Node], constants: Constants) -> list[fx.Node]:
    """`node` and what it is computed from, `sources` and constants left out, in order."""
    found: set[fx.Node] = set()
    todo = [node]
    while todo:
        part = todo.pop()
        if part not in found and part not in sources:
            found.add(part)
            todo += varying(part, constants)
    return sorted(found)


def varying(node: fx.Node, constants: Constants) -> list[fx.Node]:
    """The operands that depend on inputs; sizes are none."""
    return [used for used in node.all_input_nodes if is_value(used) and not constants.has(used)]


def is_value(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and all(isinstance(item, Tensor) for item in value))


def may_be_affine(node: fx.Node, constants: Constants) -> bool:
    """Its operator has a rule for operands of which these depend on inputs."""
    if node.target not in RULES or not varying(node, constants):
        return False
    if node.target not in ONE_VARIES:
        return True
    used: list[fx.Node] = []
    map_arg((node.args, node.kwargs), used.append)
    return sum(is_value(operand) and not constants.has(operand) for operand in used) == 1


def is_noop(node: fx.Node) -> bool:
    """It gives its operand back, bit for bit."""
    if node.target not in SAME or not node.all_input_nodes:
        return False
    named, before = arguments(node), node.all_input_nodes[0].meta.get("val")
    return isinstance(before, Tensor) and before.dtype == node.meta["val"].dtype and not (named.get("train") and named["p"])


def sources_of(node: fx.Node, constants: Constants) -> Iterator[fx.Node]:
    """Every value that all of `node` is computed from by operators with rules, the nearest first."""
    if not may_be_affine(node, constants):
        return
    front = set(varying(node, constants))
    while front:
        last = max(front)
        if len(front) == 1 and not is_noop(last):
            yield last
        if not may_be_affine(last, constants):
            return
        front.remove(last)
        front |= set(varying(last, constants))


def _composed(node: fx.Node, known: Mapping[fx.Node, Any], constants: Constants) -> Any:
    values = node.meta["val"]
    for value in values if isinstance(values, (list, tuple)) else [values]:
        if value.dtype not in PRECISE:
            raise NotAffine(f"it computes in {value.dtype}")
    if node.target not in RULES:
        raise NotAffine("its operator is not linear")
    made = RULES[node.target](node, _operands(node, known, constants))
    for value, affine in zip(values, made, strict=True) if isinstance(made, tuple) else [(values, made)]:
        _check_shape(value, affine)
    return made


def _operands(node: fx.Node, known: Mapping[fx.Node, Any], constants: Constants) -> dict[str, Any]:
    """The arguments by name: affine values, constants in float64, sizes as they are."""

    def operand(used: fx.Node) -> Any:
        if used in known:
            return known[used]
        if not constants.has(used):
            return used.meta["val"]
        value = constants.value(used)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    named = dict(enumerate(node.args)) if node.target is operator.getitem else arguments(node)
    return {str(name): map_arg(value, operand) for name, value in named.items()}


def _check_shape(value: Tensor, affine: Affine) -> None:
    """Rows are those that the graph has, features as many."""
    if value.dim() != affine.shift.dim():
        raise NotAffine("it has other dimensions than its operands")
    for row, size in zip(affine.rows, affine.sizes, strict=True):
        if not statically_known_true(value.shape[row] == size):
            raise NotAffine("it has other rows than its operands")
    for feature in affine.features:
        if value.shape[feature] != affine.shift.shape[feature]:
            raise NotAffine("it has other features than its operands")
