"""Program ==> groups of nodes that become ONNX nodes together, with signatures, and the kernels of ONNX Runtime that compute them.

A group is a node of the program with the sums that it absorbed: what the lowering alone decides, so that a program can be judged without
a session. ONNX Runtime divides and fuses further; each of its kernels leads back to the groups by the names of the values that it left.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray
from torch import Tensor, fx

from ..contract import Call, Target
from ..reexport import island_nodes
from ..work import kind_of, signature, work_of
from .float_ import export
from .legalize import refusals
from .lower import FLAVOURS, emit
from .qdq import export_simulated
from .run import OPTIMISED, load
from .walk import ORIGIN, STORAGE

_RENAMED = re.compile(r"_token_\d+$")
"""What ONNX Runtime adds to the name of a node that it moves to another layout."""
_KERNEL = "_kernel_time"


def groups(program: Program, target: Target, sizes: Mapping[str, int]) -> tuple[tuple[tuple[str, ...], str], ...]:
    """The nodes of each group, in the graph's order, and its signature.

    Raises:
        BackendError: the target cannot take the program, or its lowering keeps no account of nodes.
    """
    symbols = {symbol: sizes[name] for symbol, name in program.symbols().items()}
    return tuple(
        (tuple(node.name for node in nodes), signature(kind_of(nodes), work_of(nodes, symbols))) for nodes in _groups(program, target)
    )


def _groups(program: Program, target: Target) -> list[tuple[fx.Node, ...]]:
    flavour = FLAVOURS.get(target.name)
    if flavour is None:
        return [(node,) for node in program.graph.nodes if _computes(node)]
    if refused := refusals(program, flavour):
        raise BackendError(refused[0].reason, where=f"{target.name}, {refused[0].node}", way_on=refused[0].way_on)
    inside, found = island_nodes(program), list[tuple[fx.Node, ...]]()
    absorbed: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    islands = [node for node in program.graph.nodes if node in inside]
    for node in program.graph.nodes:
        if node in inside:
            found += [tuple(islands)] if node is islands[0] else []
        elif node.op == "placeholder":
            found += [(node,)] if _is_converted(node) else []
        elif node.op == "call_function" and isinstance(node.meta["val"], Tensor):
            if flavour.absorbs(node, program):
                absorbed[next(iter(node.users))].append(node)
            else:
                found.append((*absorbed[node], node))
    return found


def _computes(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta["val"], (Tensor, list, tuple))


def _is_converted(node: fx.Node) -> bool:
    """An input that is held in another type than it comes in."""
    dtype = node.meta["val"].dtype
    return dtype in STORAGE and str(STORAGE[dtype][0]).lower() != str(dtype).removeprefix("torch.")


def owners(program: Program, target: Target, calls: Sequence[Call]) -> tuple[tuple[int, ...], ...]:
    """Each kernel's groups: those of the ONNX nodes between the values that it reads and those that it leaves.

    A kernel that ONNX Runtime inserted, a transposition, is for the one that reads it.
    """
    places = {node.name: place for place, nodes in enumerate(_groups(program, target)) for node in nodes}
    graph = _emitted(program, target)
    origins = {name: [places[node] for node in nodes if node in places] for name, nodes in _origins(graph, program).items()}
    named = [_RENAMED.sub("", call.name) for call in calls]
    within = _Graph(graph, {name for call in calls for name in (*call.inputs, *call.outputs)}, set(named))
    found = [
        _known(origins, [*([name] if name in origins else []), *within.behind(call.outputs)])
        for name, call in zip(named, calls, strict=True)
    ]
    _pass_on(calls, found)
    return tuple(map(tuple, found))


def _emitted(program: Program, target: Target) -> ir.Graph:
    """As it is lowered; its nodes remember what they are for."""
    if target.name in FLAVOURS:
        return emit(program, FLAVOURS[target.name]).graph
    return (export(program) if program.stage == "float" else export_simulated(program)).graph


def _origins(graph: ir.Graph, program: Program) -> dict[str, list[str]]:
    """ONNX node -> the program's nodes that it is for.

    What torch's exporter fused (a convolution and its batch norm) remembers nothing: it is for those that have no ONNX node of their
    own and lead to what reads its result. Islands are one group, so that any of their nodes stands for all.
    """
    found = {str(node.name): [str(node.meta[ORIGIN])] for node in graph if ORIGIN in node.meta}
    told = {name for names in found.values() for name in names} | set(program.islands)
    nodes = {node.name: node for node in program.graph.nodes}
    given = {output: node.name for output, node in zip(graph.outputs, program.outputs(), strict=True)}
    for node in reversed(list(graph)):
        if str(node.name) in found:
            continue
        found[str(node.name)] = hidden = list(program.islands[:1])
        readers = [name for output in node.outputs for use in output.uses() for name in found[str(use.node.name)]]
        waiting = [used for name in readers for used in (nodes[name], *nodes[name].all_input_nodes)]
        waiting += [nodes[given[output]] for output in node.outputs if output in given]
        while waiting:
            behind = waiting.pop()
            if behind.name not in told and behind.name not in hidden and _computes(behind):
                hidden.append(behind.name)
                waiting += behind.all_input_nodes
    return found


def _known(origins: Mapping[str, Sequence[int]], nodes: Iterable[str]) -> list[int]:
    return sorted({place for name in nodes for place in origins[name]})


class _Graph:
    """The graph as it was emitted, seen from values that are still there after its optimisation."""

    def __init__(self, graph: ir.Graph, alive: set[str], claimed: set[str]) -> None:
        self._producers = {str(output.name): node for node in graph for output in node.outputs}
        self._alive, self._claimed = alive, claimed

    def behind(self, outputs: Sequence[str]) -> set[str]:
        """Names of the nodes from these values back to such as still exist, or to nodes that still do under their names."""
        found, waiting = set[str](), [name for name in outputs if name in self._producers]
        while waiting:
            node = self._producers[waiting.pop()]
            if str(node.name) in found:
                continue
            found.add(str(node.name))
            read = [str(value.name) for value in node.inputs if value is not None]
            hidden = [name for name in read if name not in self._alive and name in self._producers]
            waiting += [name for name in hidden if str(self._producers[name].name) not in self._claimed]
        return found


def _pass_on(calls: Sequence[Call], found: list[list[int]]) -> None:
    """Calls without owners get those of the first call that reads what they leave, or else of the one whose result they read."""
    read_by: dict[str, int] = {}
    for place in reversed(range(len(calls))):
        readers = (read_by[name] for name in calls[place].outputs if name in read_by)
        found[place] = found[place] or next((found[reader] for reader in readers if found[reader]), [])
        read_by.update(dict.fromkeys(calls[place].inputs, place))
    left_by = {name: place for place, call in enumerate(calls) for name in call.outputs}
    for place, call in enumerate(calls):
        writers = (left_by[name] for name in call.inputs if name in left_by)
        found[place] = found[place] or next((found[writer] for writer in writers if found[writer]), [])


class OnnxRecorder:
    """A session that writes down the time of every kernel."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any], inputs: Sequence[NDArray[Any]]) -> None:
        self._scratch, self._inputs = tempfile.TemporaryDirectory(prefix="fxpress-profile-"), inputs
        apart = manifest.get("details", {}).get("apart")
        self._session = load(folder, str(manifest["target"]), options, apart, profiled=Path(self._scratch.name))

    def run(self) -> None:
        self._session.run(self._inputs)

    def calls(self) -> tuple[Call, ...]:
        """ONNX Runtime writes whole microseconds, rounded down: half of one is added."""
        events = json.loads(Path(self._session.session.end_profiling()).read_text(encoding="utf-8"))
        model = onnx.load(Path(self._scratch.name) / OPTIMISED, load_external_data=False)
        nodes = {node.name: node for node in model.graph.node}
        self._scratch.cleanup()
        times: dict[str, list[float]] = defaultdict(list)
        for event in sorted((event for event in events if event.get("cat") == "Node"), key=lambda event: event["ts"]):
            if event["name"].endswith(_KERNEL):
                times[event["name"].removesuffix(_KERNEL)].append((event["dur"] + 0.5) / 1e6)
        return tuple(Call(name, tuple(found), tuple(nodes[name].input), tuple(nodes[name].output)) for name, found in times.items())
