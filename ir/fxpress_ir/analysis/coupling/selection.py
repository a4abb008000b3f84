"""split, chunk, slice, select, index, embedding ==> segments of labels; what is named by number stays."""

from __future__ import annotations

import numpy as np
import torch
from torch import SymInt, Tensor, fx

from .call import Call, Result, is_one, sizes, unlabelled
from .ties import ONE, Axis, Value

_LAST = 2**63 - 1
"""Where ``x[:]`` ends."""


def split(call: Call) -> list[Value]:
    """split, split_with_sizes, chunk, tensor_split by number: pieces in order."""
    x = call.value(call.first())
    dimension = call["dim"] % len(x)
    pieces, start = [], 0
    for val in call.node.meta["val"]:
        size = val.shape[dimension]
        labels = x[dimension].labels
        if isinstance(size, SymInt):
            call.pin(x[dimension : dimension + 1], "pieces of symbolic size are taken")
            labels = "its size is symbolic"
        elif not isinstance(labels, str):
            labels, start = labels[start : start + size], start + size
        axis = ONE if isinstance(labels, str) and is_one(size) else Axis(labels, x[dimension].zero)
        pieces.append((*x[:dimension], axis, *x[dimension + 1 :]))
    return pieces


def unbind(call: Call) -> list[Value]:
    x = call.value(call.first())
    dimension = call["dim"] % len(x)
    call.pin(x[dimension : dimension + 1], "its entries are named")
    return [(*x[:dimension], *x[dimension + 1 :])] * len(call.node.meta["val"])


def bounds(call: Call) -> tuple[int, int, int]:
    """Start, end and step of a slice or narrow along a static dimension."""
    size = int(sizes(call.first())[call["dim"]])
    start = call.named.get("start") or 0
    if call.name == "narrow":
        return start % size, start % size + call["length"], 1
    return slice(start, call.named.get("end"), call["step"]).indices(size)


def cut(call: Call) -> Value:
    """slice, narrow."""
    x = list(call.value(call.first()))
    dimension = call["dim"] % len(x)
    axis, size = x[dimension], call.shape[dimension]
    if isinstance(axis.labels, str):
        x[dimension] = axis if axis.is_one else unlabelled(size, axis.labels)
    elif isinstance(sizes(call.first())[dimension], int) and _is_plain(call):
        start, end, _ = bounds(call)
        x[dimension] = Axis(axis.labels[start:end], axis.zero)
    elif not _takes_all(call):
        call.pin((axis,), "its entries are named")
        x[dimension] = unlabelled(size, f"its entries are named by {call.where}")
    return tuple(x)


def _is_plain(call: Call) -> bool:
    """A slice by numbers, one entry after the other."""
    numbers = all(not isinstance(call.named.get(key), fx.Node) for key in ("start", "end", "length"))
    return numbers and call.named.get("step", 1) == 1


def _takes_all(call: Call) -> bool:
    """``x[:]``, whatever the size."""
    named = call.named
    end = named.get("end", 0)
    return _is_plain(call) and named["start"] in (None, 0) and (end is None or end == _LAST)


def select(call: Call) -> Value:
    x = call.value(call.first())
    dimension = call["dim"] % len(x)
    call.pin(x[dimension : dimension + 1], "an entry is named")
    return (*x[:dimension], *x[dimension + 1 :])


def index(call: Call) -> Value | None:
    """x[numbers, ...]: what is indexed stays; several index tensors must follow one another."""
    x, given = call.value(call.first()), call["indices"]
    places = [position for position, node in enumerate(given) if node is not None]
    if places != list(range(places[0], places[-1] + 1)) or any(given[place].meta["val"].dtype is torch.bool for place in places):
        return None
    call.pin(x[places[0] : places[-1] + 1], "its entries are named")
    numbers = len(call.shape) - (len(x) - len(places))
    for place in places:
        call.pin(call.value(given[place]), "places are counted")
    found = [unlabelled(size, f"places are counted by {call.where}") for size in call.shape[places[0] : places[0] + numbers]]
    return (*x[: places[0]], *found, *x[places[-1] + 1 :])


def index_select(call: Call) -> Value:
    x = list(call.value(call.first()))
    dimension = call["dim"] % len(x)
    call.pin((x[dimension], *call.value(call["index"])), "its entries are named")
    x[dimension] = unlabelled(call.shape[dimension], f"its entries are named by {call.where}")
    return tuple(x)


def embedding(call: Call) -> Value:
    """Rows of weight [rows, channels] by number."""
    weight, numbers = call.value(call["weight"]), call.value(call["indices"])
    call.pin(weight[:1], "rows are named")
    return (*(Axis(axis.labels) for axis in numbers), call.produce(weight[1], None))


def item(call: Call) -> Result:
    """getitem of an operator with several results."""
    source, place = call.node.args
    values: list[Value] = call.values[source]  # type: ignore[index]
    return values[place]  # type: ignore[index]


def glu(call: Call) -> Value:
    """One half times the sigmoid of the other."""
    x = list(call.value(call.first()))
    dimension = call["dim"]
    axis = x[dimension]
    labels = axis.labels
    if not isinstance(labels, str):
        labels = call.ties.tie(*np.split(labels, 2))
    x[dimension] = Axis(labels, axis.zero)
    return tuple(x)


def fill(call: Call) -> Value:
    """full, zeros, ones: labels of their own, so that they can follow what they meet."""
    from .movement import made

    zero = "zeros" in call.name or call.named.get("fill_value") == 0
    return tuple(made(call, size, zero=zero) for size in call.shape)


def count(call: Call) -> Value:
    """arange, eye, linspace and the like: values that differ by place."""
    assert isinstance(call.node.meta["val"], Tensor)
    return tuple(unlabelled(size, f"it is made by {call.where}") for size in call.shape)


RULES = {
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"), split),
    "unbind": unbind,
    **dict.fromkeys(("slice", "narrow"), cut),
    "select": select,
    "index": index,
    "index_select": index_select,
    "embedding": embedding,
    "getitem": item,
    "glu": glu,
    **dict.fromkeys(("full", "zeros", "ones", "new_full", "new_zeros", "new_ones"), fill),
    **dict.fromkeys(("arange", "eye", "linspace", "scalar_tensor", "lift", "_assert_tensor_metadata"), count),
}
