"""pruned program, whole program ==> the pruned one, unless a measurement on the target finds it no faster."""

from __future__ import annotations

from collections.abc import Callable

from fxpress_ir import Program

from ..contract import Context, Refused

Latency = Callable[[Program], float]
"""A program ==> seconds of one run on the target; a backend's business, so it is given from outside."""


def not_slower(pruned: Program, whole: Program, latency: Latency | None, context: Context) -> Program:
    """`pruned`, or `whole` with a reason in the report where `latency` finds it no faster; nothing is measured without one."""
    if latency is None or pruned is whole:
        return pruned
    before, after = latency(whole), latency(pruned)
    if after < before:
        return pruned
    reason = f"takes {after * 1e3:.3g} ms pruned, {before * 1e3:.3g} ms whole"
    context.refusals.append(Refused("program", reason, "it stays whole; prune more, or align to what the target computes at once"))
    return whole
