"""linear, matrix products, einsum ==> the summed dimensions are tied, the others pass."""

from __future__ import annotations

from .call import Call, is_one, passed, sizes
from .ties import ONE, Axis, Value


def linear(call: Call) -> Value:
    """x [..., in], weight [out, in], bias [out]."""
    x, weight, bias = call.value(call["input"]), call.value(call["weight"]), call.optional("bias")
    call.contract(x[-1], weight[-1])
    rest = passed(x[:-1], bias is None)
    return rest if len(weight) == 1 else (*rest, call.produce(weight[0], bias))


def product(call: Call) -> Value:
    """matmul, mm, bmm and mv of a [..., m, k] and b [..., k, n]; vectors as in matmul."""
    one, other = list(call.named.values())[:2]
    return _product(call, call.value(one), call.value(other))


def _product(call: Call, a: Value, b: Value) -> Value:
    call.contract(a[-1], b[-2] if len(b) > 1 else b[0])
    rank = max(len(a), len(b)) - 2
    batch = []
    for position in range(rank):
        axes = [value[here] for value in (a, b) if (here := position - rank + len(value) - 2) >= 0 and not value[here].is_one]
        batch.append(_together(call, axes))
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = (call.produce(b[-1], None),) if len(b) > 1 else ()
    return (*batch, *rows, *columns)


def _together(call: Call, axes: list[Axis]) -> Axis:
    """Dimensions that run together through a product: one zero is enough."""
    return Axis(call.ties.tie(*(axis.labels for axis in axes)), any(axis.zero for axis in axes)) if axes else ONE


def addmm(call: Call) -> Value:
    """addmm, baddbmm, addmv: what is added is broadcast over the product."""
    added, one, other = list(call.named.values())[:3]
    result = list(_product(call, call.value(one), call.value(other)))
    for position, axis in enumerate(reversed(call.value(added)), 1):
        here = result[-position]
        size = sizes(added)[-position]
        if is_one(size):
            result[-position] = Axis(here.labels)
        else:
            result[-position] = Axis(call.ties.tie(here.labels, axis.labels), here.zero and axis.zero)
    for position in range(len(result) - len(sizes(added))):
        result[position] = Axis(result[position].labels)
    return tuple(result)


def einsum(call: Call) -> Value | None:
    """Letters that several operands share are tied; those that the result lacks are summed. None for an ellipsis."""
    equation = str(call["equation"]).replace(" ", "")
    operands = call["tensors"]
    if "." in equation or "->" not in equation:
        return None
    inputs, output = equation.split("->")
    axes: dict[str, list[Axis]] = {}
    for letters, node in zip(inputs.split(","), operands, strict=True):
        for letter, axis in zip(letters, call.value(node), strict=True):
            axes.setdefault(letter, []).append(axis)
    for letter, found in axes.items():
        if letter not in output:
            call.contract(*found)
    made = {letter: _together(call, [axis for axis in axes[letter] if not axis.is_one]) for letter in output}
    for letter in output:
        labels = made[letter].labels
        if len(axes[letter]) == 1 and letter in inputs.split(",")[-1] and not isinstance(labels, str):
            call.ties.producers.append((labels, call.node))
    return tuple(made[letter] for letter in output)


RULES = {
    "linear": linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv"), product),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), addmm),
    "einsum": einsum,
}
