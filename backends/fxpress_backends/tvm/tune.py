"""Program, this machine ==> the plan of the kernels that measure fastest on it, and the table of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fxpress_ir import Program
from fxpress_ir.errors import BackendError

from fxpress_backends.contract import Target
from fxpress_backends.work import sizes_at

from .choose import AHEAD, chosen
from .cpu import AMX, VNNI
from .physical import Plan
from .plan import plan
from .run import logical_cpus
from .timing import microseconds


def tuned(program: Program, target: Target, sizes: Mapping[str, int]) -> tuple[Plan, dict[str, Any]]:
    """Time alternatives; none wins by less than 3 %.

    They are tiles of several sizes, prefetches, additions fused and apart, weights of 4 bits split in registers or bytes from the start,
    and AMX against dot products.

    Args:
        sizes: of dynamic dimensions, at which kernels are timed; the least that the program allows where none is given.

    Returns:
        The plan, and the record for the manifest: sizes, threads, and a line for each part of the plan that had alternatives.

    Raises:
        BackendError: this machine does not run the target; `sizes` names no dimension of the program or leaves its range.
    """
    where = target.name
    if not target.runs_here or program.stage == "float":
        message = "float programs have no kernels of ours" if target.runs_here else "this machine does not run it"
        raise BackendError(f"nothing to time: {message}", where=where, way_on="lower without tune")
    whole = sizes_at(program, sizes, where)
    own = plan(program, target)
    others = [plan(program, target, fuses_additions=False), *_with_other_weights(program, target, own)]
    if AMX in target.features:
        without = replace(target, features=tuple(feature for feature in target.features if feature != AMX))
        others.append(plan(program, without))
    threads = logical_cpus()
    best, table = chosen(own, others, lambda parts: microseconds(parts, target, whole, threads))
    return best, {"sizes": whole, "threads": threads, "ahead": AHEAD, "table": [line.data() for line in table]}


def _with_other_weights(program: Program, target: Target, own: Plan) -> Iterator[Plan]:
    """Plans in which weights of 4 bits stay so until registers wherever they can, or nowhere, where that is another plan."""
    if VNNI in target.features:
        for nibbles in (True, False):
            other = plan(program, target, nibbles=nibbles)
            if [group.kernel for group in other.groups] != [group.kernel for group in own.groups]:
                yield other
