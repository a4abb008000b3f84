"""float Program ==> the labels of every dimension, by one rule an operator; an operator without a rule holds what it touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, fx

from . import attention, contraction, convolution, elementwise, movement, normalize, reduction, reshape, selection
from .call import Call, Result, unlabelled
from .ties import ONE, Axis, Ids, Ties, Value, first_reasons

if TYPE_CHECKING:
    from ...program import Program

RULES: dict[str, Callable[[Call], Result | None]] = {
    name: rule
    for family in (elementwise, contraction, convolution, normalize, reduction, movement, selection, reshape, attention)
    for name, rule in family.RULES.items()
}
"""operator name ==> rule; a rule that returns None does not take the call."""
_TRIES = 8


@dataclass
class Walk:
    """What one pass over the graph found."""

    ties: Ties = field(default_factory=Ties)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    tensors: dict[str, Value] = field(default_factory=dict)
    splits: dict[fx.Node, tuple[Ids, int]] = field(default_factory=dict)


def walk(program: Program) -> tuple[Walk, Ids]:
    """The labels, and each label's atom.

    Where a dimension is divided by a view, one of its factors carries the labels: the first for which more than one atom can
    leave (heads of attention: the outer; a shuffle of channels: the inner; queries, keys and values in one: the middle).
    """
    choices: dict[fx.Node, int] = {}
    for _ in range(_TRIES):
        found = _walked(program, choices)
        roots = found.ties.atoms()
        held = first_reasons(found.ties.pins, roots)
        again = False
        for node, (labels, candidates) in found.splits.items():
            free = set(np.unique(roots[labels]).tolist()) - held.keys()
            if len(free) < 2 and choices.get(node, 0) + 1 < candidates:
                choices[node] = choices.get(node, 0) + 1
                again = True
        if not again:
            break
    return found, roots


def _walked(program: Program, choices: Mapping[fx.Node, int]) -> Walk:
    found = Walk()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            found.values[node] = tuple(unlabelled(size, f"input {node.name!r} carries it") for size in node.meta["val"].shape)
        elif node.op == "get_attr":
            found.values[node] = _tensor(found, node, program)
        elif node.op == "call_function":
            found.values[node] = _called(found, node, choices)
    for place, node in enumerate(program.outputs()):
        for axis in found.values[node] or ():
            found.ties.pin(axis.labels, f"output {place} carries it")
    return found


def _tensor(found: Walk, node: fx.Node, program: Program) -> Value:
    """Every entry of every dimension gets a label; nodes that name one tensor share them."""
    name = str(node.target)
    if name not in found.tensors:
        zero = can_be_zero(node, program)
        shape = node.meta["val"].shape
        found.tensors[name] = tuple(ONE if size == 1 else Axis(found.ties.fresh(int(size)), zero) for size in shape)
    return found.tensors[name]


def can_be_zero(node: fx.Node, program: Program) -> bool:
    """Zeros may be written into the tensor: it is one of floats, no variance, and nothing divides by it."""
    if not node.meta["val"].is_floating_point():
        return False
    users = [user for other in program.graph.find_nodes(op="get_attr", target=node.target) for user in other.users]
    for user in users:
        if getattr(user.target, "_opname", "") in ("batch_norm", "instance_norm") and node in user.args[4:5]:
            return False
        if getattr(user.target, "_opname", "") in elementwise.ELEMENTWISE and not elementwise.is_finite(user, {node}):
            return False
    return True


def _called(found: Walk, node: fx.Node, choices: Mapping[fx.Node, int]) -> Any:
    val = node.meta.get("val")
    call = Call(node, found.values, found.ties, choices)
    if not isinstance(val, (Tensor, tuple, list)):
        _size(call)
        return None
    rule = RULES.get(call.name)
    result = rule(call) if rule is not None else None
    if call.split is not None:
        found.splits[node] = call.split
    return result if result is not None else _refused(call, val)


def _size(call: Call) -> None:
    """A dimension whose size is computed with stays; static sizes are numbers in the graph, no nodes."""
    if call.name == "sym_size":
        call.pin(call.value(call.first())[call["dim"] :][:1], "its size is read")
    elif any(isinstance(used.meta["val"], Tensor) for used in call.node.all_input_nodes):
        _refused(call, ())


def _refused(call: Call, val: Any) -> Any:
    operands = [used for used in call.node.all_input_nodes if isinstance(call.values[used], (tuple, list))]
    for used in operands:
        for value in _flat(call.values[used]):
            for axis in value:
                call.ties.pin(axis.labels, f"unprunable: {call.where}")

    def fixed(one: Any) -> Value:
        return tuple(unlabelled(size, f"unprunable: {call.where}") for size in one.shape) if isinstance(one, Tensor) else ()

    return fixed(val) if isinstance(val, Tensor) else [fixed(one) for one in val]


def _flat(value: Any) -> list[Value]:
    return value if isinstance(value, list) else [value]
