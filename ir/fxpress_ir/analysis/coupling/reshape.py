"""view, reshape, flatten, unflatten ==> which dimensions merge and divide, and which of the factors carries the labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from torch import SymInt

from ..sizes import concrete_size, symbols
from .call import Call, sizes, unlabelled
from .ties import ONE, Axis, Ids, Value

_LIKE = ("view_as", "reshape_as")
_PRIMES = (101, 103, 107, 109, 113, 127, 131, 137)


def reshape(call: Call) -> Value | None:
    """None where the dimensions of the result cannot be matched to those of the operand, or its bytes are read as another dtype."""
    if "dtype" in call.named:
        return None
    before, after = sizes(call.first()), call.shape
    known = {name: 5040 * prime for name, prime in zip(sorted(symbols([call.first().meta["val"]])), _PRIMES, strict=False)}
    try:
        numbers = [[concrete_size(size, known) for size in shape] for shape in (before, after)]
    except KeyError:  # a symbol that the operand does not have
        return None
    runs = matched(*numbers)
    if runs is None:
        return None
    x, result = call.value(call.first()), [ONE] * len(after)
    for sources, targets in runs:
        axes = _regroup(call, [x[i] for i in sources], [before[i] for i in sources], [after[i] for i in targets])
        for target, axis in zip(targets, axes, strict=True):
            result[target] = axis
    return _like(call, result) if call.name in _LIKE else tuple(result)


def _like(call: Call, axes: list[Axis]) -> Value:
    """The sizes are another value's: the dimensions are tied to its."""
    return tuple(Axis(call.ties.tie(axis.labels, of.labels), axis.zero) for axis, of in zip(axes, call.value(call["other"]), strict=True))


def matched(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """The shortest runs of dimensions with equal products, dimensions of one entry left out."""
    here, there = ([position for position, size in enumerate(shape) if size != 1] for shape in (before, after))
    runs = []
    while here or there:
        if not here or not there:
            return None
        sources, targets = [here.pop(0)], [there.pop(0)]
        one, other = before[sources[0]], after[targets[0]]
        while one != other:
            if one < other:
                if not here:
                    return None
                sources.append(here.pop(0))
                one *= before[sources[-1]]
            else:
                if not there:
                    return None
                targets.append(there.pop(0))
                other *= after[targets[-1]]
        runs.append((sources, targets))
    return runs


def _regroup(call: Call, axes: list[Axis], before: list[Any], after: list[Any]) -> list[Axis]:
    if len(axes) == len(after) == 1:
        return axes
    carrying = _carrying(call, axes)
    if carrying is None:
        reason = next((axis.labels for axis in axes if isinstance(axis.labels, str)), "")
        return [unlabelled(size, reason) for size in after]
    labels = axes[carrying].labels
    assert not isinstance(labels, str)
    if any(isinstance(size, SymInt) for size in (*before, *after)):
        return _periodic(call, axes, carrying, before, after)
    shape = [1] * len(before)
    shape[carrying] = before[carrying]
    place, kept = _divided(call, np.broadcast_to(labels.reshape(shape), before).reshape(after))
    result = [unlabelled(size, f"it is kept whole by {call.where}") for size in after]
    result[place] = Axis(kept, axes[carrying].zero)
    return result


def _carrying(call: Call, axes: list[Axis]) -> int | None:
    """The one dimension of a run whose labels go on; where several have labels, the others stay, copies first."""
    labelled = [place for place, axis in enumerate(axes) if not isinstance(axis.labels, str)]
    if not labelled:
        return None
    own = [place for place in labelled if not call.ties.is_soft(axes[place].labels)]  # type: ignore[arg-type]
    chosen = (own or labelled)[0]
    call.pin([axes[place] for place in labelled if place != chosen], "it is merged with a dimension that can shrink")
    return chosen


def _divided(call: Call, labels: Ids) -> tuple[int, Ids]:
    """The factor that carries the labels, and its labels: one along which they do not differ by the others, or the choice."""
    for place in range(labels.ndim):
        rows = np.moveaxis(labels, place, 0).reshape(labels.shape[place], -1)
        if (rows == rows[:, :1]).all():
            return place, rows[:, 0]
    place = call.choice(labels.reshape(-1), labels.ndim)
    return place, call.ties.tie_blocks(np.moveaxis(labels, place, 0).reshape(-1), labels.shape[place])


def _periodic(call: Call, axes: list[Axis], carrying: int, before: list[Any], after: list[Any]) -> list[Axis]:
    """With symbolic sizes in the run, labels go on where they repeat: of batch * heads the entries of a batch are labelled."""
    labels, trailing = axes[carrying].labels, before[carrying + 1 :]
    assert not isinstance(labels, str)
    result = [unlabelled(size, f"it is merged by {call.where}") for size in after]
    lead = next(place for place in range(len(after) + 1) if not any(isinstance(size, SymInt) for size in after[place:]))
    block = prod(after[lead:])
    period = np.repeat(labels, prod(trailing)) if not any(isinstance(size, SymInt) for size in trailing) else None
    if period is not None and lead < len(after) and block % len(period) == 0:
        place, kept = _divided(call, np.tile(period, block // len(period)).reshape(after[lead:]))
        result[lead + place] = Axis(kept, axes[carrying].zero)
    elif period is not None and lead == 1 and len(period) % block == 0:
        place, kept = _divided(call, period.reshape(-1, *after[1:]))
        result[place] = Axis(kept, axes[carrying].zero)
    else:
        call.pin(axes[carrying : carrying + 1], "it is merged with a dimension of symbolic size")
    return result


def channel_shuffle(call: Call) -> Value:
    """Channels of all groups take turns: those at the same place in their groups leave together."""
    x, groups = list(call.value(call.first())), call["groups"]
    labels = x[1].labels
    if not isinstance(labels, str):
        rows = np.ascontiguousarray(labels.reshape(groups, -1).T)
        labels = np.repeat(call.ties.tie_blocks(rows.reshape(-1), len(rows)), groups)
    x[1] = Axis(labels, x[1].zero)
    return tuple(x)


RULES = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", *_LIKE), reshape),
    "channel_shuffle": channel_shuffle,
}
