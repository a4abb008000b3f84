"""mixed or integer Program ==> the groups of its physical plan with signatures, and the virtual machine's calls that compute them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray

from fxpress_backends.contract import Call, Target
from fxpress_backends.work import signature, work_of

from .choose import Part
from .cuda import CUDA
from .legalize import broken_rules
from .physical import FUNCTION, RESULT, Group, Plan
from .plan import plan
from .run import load
from .selftest import proved

_VALUES = frozenset({"b", "bx", "by", "epsilon", "fill", "most", "other", "own", "qmax", "qmin", "scale", "shift"})
"""Attributes of groups that are numbers of the arithmetic: other ones take as long."""
_OWN = ("vm.", "shape_func")
"""What the names of the virtual machine's own calls begin with."""


def groups(program: Program, target: Target, sizes: Mapping[str, int]) -> tuple[tuple[tuple[str, ...], str], ...]:
    """The nodes of each kernel call, in order, and its signature.

    Raises:
        BackendError: the target cannot take the program, its kernels run on a GPU, or the program is a float one, which TVM's importer
            divides in ways of its own.
    """
    planned, number = _planned(program, target), {symbol: sizes[name] for symbol, name in program.symbols().items()}
    nodes = {node.name: node for node in program.graph.nodes}

    def signed(group: Group) -> str:
        if group.kernel == FUNCTION:
            return signature(FUNCTION, work_of([nodes[name] for name in group.nodes], number))
        at = {name: sizes[name] for name in planned.symbols(group)}
        plain = replace(group, attributes=_without_values(group.attributes))
        return signature(group.kernel, f"{Part(planned, (plain,)).signature} at {at}")

    return tuple((group.nodes, signed(group)) for group in _called(planned))


def owners(program: Program, target: Target, calls: Sequence[Call]) -> tuple[tuple[int, ...], ...]:
    """Kernels are called in the plan's order; what the virtual machine calls between them is its own."""
    wanted = [group.output if group.kernel == FUNCTION else group.kernel for group in _called(_planned(program, target))]
    found: list[tuple[int, ...]] = []
    place = 0
    for call in calls:
        if call.name.startswith(_OWN):
            found.append(())
            continue
        if place == len(wanted) or not call.name.startswith(wanted[place]):
            expected = wanted[place] if place < len(wanted) else "no other kernel"
            raise BackendError(f"the artifact calls {call.name}, its plan {expected}", where=target.name, way_on="lower it again, untuned")
        found.append((place,))
        place += 1
    if place < len(wanted):
        raise BackendError(f"the artifact never calls {wanted[place]}", where=target.name, way_on="lower it again, untuned")
    return tuple(found)


def _planned(program: Program, target: Target) -> Plan:
    if program.stage == "float":
        raise BackendError("float programs have no kernels of ours", where=target.name, way_on="quantise it, or take an onnx target")
    if CUDA in target.features:
        raise BackendError("kernels of a GPU return before they are done", where=target.name, way_on="measure whole programs with bench")
    if found := broken_rules(program, target):
        raise BackendError(found[0].reason, where=f"{target.name}, {found[0].node}", way_on=found[0].way_on)
    return plan(program, proved(target)[0])


def _called(planned: Plan) -> list[Group]:
    return [group for group in planned.groups if group.kernel not in ("view", RESULT)]


def _without_values(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in attributes.items() if key not in _VALUES}
    return {key: _without_values(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


class TvmRecorder:
    """A library whose virtual machine is asked before and after each call; what an island calls counts as the island."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any], inputs: Sequence[NDArray[Any]]) -> None:
        self._runner, self._inputs = load(folder, manifest, options), inputs
        self._times: dict[tuple[int, str], list[float]] = defaultdict(list)
        self._place = self._depth = 0
        self._start = 0.0
        self._runner.watch(self._instrument)

    def run(self) -> None:
        self._place = 0
        self._runner.run(self._inputs)

    def calls(self) -> tuple[Call, ...]:
        return tuple(Call(name, tuple(found)) for (_, name), found in sorted(self._times.items()))

    def _instrument(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        now = time.perf_counter()
        if before:
            self._depth += 1
            if self._depth == 1:
                self._start = time.perf_counter()
            return 0
        self._depth -= 1
        if self._depth == 0:
            self._times[self._place, name].append(now - self._start)
            self._place += 1
        return 0
