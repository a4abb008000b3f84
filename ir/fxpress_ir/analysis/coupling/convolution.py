"""Convolutions, plain, grouped, depthwise and transposed ==> channels are tied, windows stay."""

from __future__ import annotations

from .call import Call, passed, unlabelled
from .ties import Axis, Labels, Value


def convolution(call: Call) -> Value:
    """x [batch, in, ...], weight [out, in / groups, ...]; with groups, a group of channels leaves as a whole."""
    x, weight, bias = call.value(call["input"]), call.value(call["weight"]), call.optional("bias")
    channel = len(x) - len(weight) + 1
    groups = call["groups"]
    call.pin((*x[channel + 1 :], *weight[2:]), "a window slides over it")
    if groups == 1:
        call.contract(x[channel], weight[1])
        made = call.produce(weight[0], bias)
    else:
        call.pin(weight[1:2], "whole groups are removed")
        made = call.produce(weight[0], bias)
        made = Axis(_whole_groups(call, x[channel], made, groups), made.zero)
    return (*passed(x[:channel], bias is None), made, *_windows(call, channel))


def transposed(call: Call) -> Value:
    """x [batch, in, ...], weight [in, out / groups, ...]."""
    x, weight, bias = call.value(call["input"]), call.value(call["weight"]), call.optional("bias")
    channel = len(x) - len(weight) + 1
    groups = call["groups"]
    call.pin((*x[channel + 1 :], *weight[2:]), "a window slides over it")
    call.contract(x[channel], weight[0])
    if groups == 1:
        made = call.produce(weight[1], bias)
    else:
        call.pin(weight[1:2], "whole groups are removed")
        made = call.produce(Axis(call.ties.fresh(int(call.shape[channel])), weight[0].zero), bias)
        made = Axis(_whole_groups(call, x[channel], made, groups), made.zero)
    return (*passed(x[:channel], bias is None), made, *_windows(call, channel))


def _whole_groups(call: Call, into: Axis, made: Axis, groups: int) -> Labels:
    """A group's outputs leave with its inputs."""
    if isinstance(into.labels, str) or isinstance(made.labels, str):
        return call.ties.tie(into.labels, made.labels)
    call.ties.consumers.append((into.labels, call.node))
    call.ties.tie(call.ties.tie_blocks(into.labels, groups), call.ties.tie_blocks(made.labels, groups))
    return made.labels


def _windows(call: Call, channel: int) -> list[Axis]:
    return [unlabelled(size, f"windows are counted by {call.where}") for size in call.shape[channel + 1 :]]


RULES = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed),
}
