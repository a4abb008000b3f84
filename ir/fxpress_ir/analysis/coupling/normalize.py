"""batch, instance, group, layer and RMS norm ==> channels are tied to their parameters; statistics over them are a loss."""

from __future__ import annotations

from .call import Call, passed
from .ties import Axis, Ids, Value


def _affine(call: Call, axis: Axis, position: int, names: tuple[str, ...]) -> Axis:
    """Tied to dimension `position` of the parameters; zero where weight and bias are."""
    parameters = {name: value for name in names if (value := call.optional(name)) is not None}
    labels = call.ties.tie(axis.labels, *(value[position].labels for value in parameters.values()))
    weight, bias = parameters.get("weight"), parameters.get("bias")
    zero = weight is not None and weight[position].zero and (bias is None or bias[position].zero)
    return Axis(labels, zero)


def channel_norm(call: Call) -> Value:
    """batch_norm, instance_norm: each channel by its own statistics."""
    x = call.value(call["input"])
    made = _affine(call, x[1], 0, ("weight", "bias", "running_mean", "running_var"))
    return (Axis(x[0].labels), made, *(Axis(axis.labels) for axis in x[2:]))


def trailing_norm(call: Call) -> Value:
    """layer_norm, rms_norm: over the trailing dimensions, whose sizes the statistics divide by."""
    x, count = call.value(call["input"]), len(call["normalized_shape"])
    names = ("weight", "bias")
    made = [_affine(call, axis, position, names) for position, axis in enumerate(x[-count:])]
    for axis in made:
        call.lose(axis.labels, "its entries are counted")
    return (*passed(x[:-count], call.optional("bias") is None), *made)


def group_norm(call: Call) -> Value:
    """A group of channels leaves as a whole; where there is but one group, its channels leave as under layer_norm."""
    x, groups = call.value(call["input"]), call["num_groups"]
    made = _affine(call, x[1], 0, ("weight", "bias"))
    if not isinstance(made.labels, str):
        _hold(call, made.labels, groups)
    call.pin(x[2:], "statistics are taken over it")
    return (Axis(x[0].labels), made, *(Axis(axis.labels) for axis in x[2:]))


def _hold(call: Call, labels: Ids, groups: int) -> None:
    if groups == 1:
        call.lose(labels, "its entries are counted")
    else:
        call.ties.tie_blocks(labels, groups)


RULES = {
    **dict.fromkeys(("batch_norm", "instance_norm"), channel_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), trailing_norm),
    "group_norm": group_norm,
}
