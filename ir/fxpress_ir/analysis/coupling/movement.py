"""permute, expand, repeat, cat, stack, pad, roll ==> dimensions move, labels with them."""

from __future__ import annotations

import numpy as np

from .call import Call, is_one, sizes, unlabelled
from .ties import ONE, Axis, Labels, Value


def permute(call: Call) -> Value:
    x = call.value(call.first())
    return tuple(x[dimension] for dimension in call["dims"])


def transpose(call: Call) -> Value:
    """transpose, swapaxes, and t, mT, numpy_T, adjoint, which name no dimensions."""
    x = list(call.value(call.first()))
    if call.name == "numpy_T":
        return tuple(reversed(x))
    pairs = {"t": (0, -1), "mT": (-2, -1), "adjoint": (-2, -1)}
    one, other = pairs.get(call.name) or tuple(list(call.named.values())[1:3])
    if len(x) > 1:
        x[one], x[other] = x[other], x[one]
    return tuple(x)


def movedim(call: Call) -> Value:
    x = call.value(call.first())
    source, target = ([given] if isinstance(given, int) else list(given) for given in (call["source"], call["destination"]))
    source, target = ([dimension % len(x) for dimension in dimensions] for dimensions in (source, target))
    rest = iter(axis for position, axis in enumerate(x) if position not in source)
    return tuple(x[source[target.index(position)]] if position in target else next(rest) for position in range(len(x)))


def unsqueeze(call: Call) -> Value:
    x = list(call.value(call.first()))
    x.insert(call["dim"] % (len(x) + 1), ONE)
    return tuple(x)


def squeeze(call: Call) -> Value:
    x, shape = call.value(call.first()), sizes(call.first())
    given = call.named.get("dim")
    wanted = range(len(x)) if given is None else [dim % len(x) for dim in ([given] if isinstance(given, int) else given)]
    return tuple(axis for position, axis in enumerate(x) if position not in wanted or not is_one(shape[position]))


def expand(call: Call) -> Value:
    """Copies get labels of their own, so that they can follow what they meet."""
    x = call.value(call.first())
    shape, before = call.shape, sizes(call.first())
    offset = len(shape) - len(x)
    result = []
    for position, size in enumerate(shape):
        here = position - offset
        if here >= 0 and (is_one(size) or not is_one(before[here])):
            result.append(x[here])
        elif call.name == "expand_as":
            result.append(Axis(call.value(call["other"])[position].labels))
        else:
            result.append(made(call, size, zero=False))
    return tuple(result)


def made(call: Call, size: object, *, zero: bool) -> Axis:
    """A dimension that copies or a fill made: its size is an argument, which follows the labels."""
    if not isinstance(size, int) or size == 1:
        return unlabelled(size, "")
    return Axis(call.ties.fresh(size, soft=True), zero)


def repeat(call: Call) -> Value:
    x, counts = list(call.value(call.first())), call["repeats"]
    x = [ONE] * (len(counts) - len(x)) + x
    return tuple(_tiled(call, axis, count, size) for axis, count, size in zip(x, counts, call.shape, strict=True))


def _tiled(call: Call, axis: Axis, count: object, size: object) -> Axis:
    if is_one(count):
        return axis
    if not isinstance(count, int) or not isinstance(size, int) or isinstance(axis.labels, str):
        call.pin((axis,), "it is repeated")
        return unlabelled(size, f"it is repeated by {call.where}")
    return Axis(np.tile(axis.labels, count), axis.zero)


def repeat_interleave(call: Call) -> Value | None:
    x, count, dimension = list(call.value(call.first())), call.named.get("repeats"), call.named.get("dim")
    if not isinstance(count, int) or dimension is None:
        return None
    axis = x[dimension]
    if isinstance(axis.labels, str):
        x[dimension] = unlabelled(call.shape[dimension], f"it is repeated by {call.where}") if axis.is_one else axis
    else:
        x[dimension] = Axis(np.repeat(axis.labels, count), axis.zero)
    return tuple(x)


def cat(call: Call) -> Value:
    """Along `dim` labels follow one another; the other dimensions are tied."""
    nodes = [node for node in call["tensors"] if len(sizes(node)) == len(call.shape)]
    values = [call.value(node) for node in nodes]
    rank = len(call.shape)
    dimension = call.named.get("dim", 0) % rank
    result = []
    for position in range(rank):
        axes = [value[position] for value in values]
        if position != dimension:
            result.append(Axis(call.ties.tie(*(axis.labels for axis in axes)), all(axis.zero for axis in axes)))
        elif all(isinstance(axis.labels, str) for axis in axes) or not isinstance(call.shape[position], int):
            call.pin(axes, "it is joined to a dimension of symbolic size")
            first = next((axis for axis in axes if not axis.is_one), axes[0])
            result.append(Axis(f"it is made by {call.where}") if first.is_one else Axis(first.labels))
        else:
            parts = [call.ties.array(axis, int(sizes(node)[position])) for axis, node in zip(axes, nodes, strict=True)]
            carried = [axis.zero for axis in axes if not isinstance(axis.labels, str)]
            result.append(Axis(np.concatenate(parts), all(carried)))
    return tuple(result)


def stack(call: Call) -> Value:
    values = [call.value(node) for node in call["tensors"]]
    axes = [Axis(call.ties.tie(*(axis.labels for axis in found)), all(axis.zero for axis in found)) for found in zip(*values, strict=True)]
    dimension = call["dim"] % len(call.shape)
    axes.insert(dimension, unlabelled(call.shape[dimension], f"it is made by {call.where}"))
    return tuple(axes)


def pad(call: Call) -> Value:
    """New entries get labels of their own where a dimension that can shrink grows by zeros."""
    x, before = list(call.value(call.first())), sizes(call.first())
    amounts = call["pad"]
    constant = call.named.get("mode", "constant") == "constant"
    for count in range(len(amounts) // 2):
        left, right = amounts[2 * count : 2 * count + 2]
        position = len(x) - 1 - count
        if left == right == 0:
            continue
        labels: Labels = x[position].labels
        if isinstance(labels, str) or not constant or not isinstance(before[position], int) or min(left, right) < 0:
            call.pin(x[position : position + 1], "it is padded")
            x[position] = unlabelled(call.shape[position], f"it is padded by {call.where}")
        else:
            around = (
                call.ties.fresh(left, soft=True),
                call.ties.array(x[position], int(before[position])),
                call.ties.fresh(right, soft=True),
            )
            x[position] = Axis(np.concatenate(around), x[position].zero and not call.named.get("value"))
    return tuple(Axis(axis.labels, axis.zero and not call.named.get("value")) for axis in x)


def in_place(call: Call) -> Value:
    """roll, flip, tril, triu, diff: the shape stays, and so do the dimensions that they work on."""
    x = list(call.value(call.first()))
    given = {"tril": [-2, -1], "triu": [-2, -1]}.get(call.name) or call.named.get("dims", call.named.get("dim"))
    moved = range(len(x)) if given in (None, []) else [dim % len(x) for dim in ([given] if isinstance(given, int) else given)]
    call.pin([x[position] for position in moved], "its entries change places")
    return tuple(
        unlabelled(size, f"its entries change places by {call.where}") if position in moved else axis
        for position, (axis, size) in enumerate(zip(x, call.shape, strict=True))
    )


RULES = {
    "permute": permute,
    **dict.fromkeys(("transpose", "swapaxes", "t", "mT", "numpy_T", "adjoint"), transpose),
    "movedim": movedim,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("roll", "flip", "tril", "triu"), in_place),
}
