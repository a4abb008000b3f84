"""Portable graph + arrays ==> outputs, node by node in NumPy; a value is freed after its last use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from fxpress_ir import Program
from fxpress_ir.errors import ArtifactError, BackendError
from fxpress_ir.portable import FORMAT, graph_data, tensor_data
from safetensors.numpy import load_file

from .. import apart
from ..contract import Arrays
from .kernels import KERNELS, Array

GRAPH, TENSORS = "graph.json", "tensors.safetensors"
"""The payload's files."""

Observe = Callable[[str, Array], None]


@dataclass(frozen=True)
class Interpreter:
    """Runs a portable graph.

    Attributes:
        graph: what ``portable.graph_data`` gives.
        tensors: what ``portable.tensor_data`` gives.
        observe: called with the name and the array of every computed node, in program order.
    """

    graph: Mapping[str, Any]
    tensors: Mapping[str, Array]
    observe: Observe | None = None

    @classmethod
    def of(cls, program: Program, observe: Observe | None = None) -> Interpreter:
        """The interpreter of an integer program, without a folder."""
        return cls(graph_data(program), tensor_data(program), observe)

    @cached_property
    def _last_uses(self) -> tuple[tuple[str, ...], ...]:
        """For each node, the values that nothing reads after it."""
        last: dict[str, int] = {}
        for position, node in enumerate(self.graph["nodes"]):
            last[node["name"]] = position
            last.update(dict.fromkeys(_read(list(node["arguments"].values())), position))
        finished: list[list[str]] = [[] for _ in self.graph["nodes"]]
        for name in last.keys() - set(self.graph["outputs"]):
            finished[last[name]].append(name)
        return tuple(map(tuple, finished))

    def run(self, inputs: Sequence[Array]) -> Arrays:
        """The outputs for `inputs`, which hold to the signature."""
        names = [spec["name"] for spec in self.graph["inputs"]]
        values: dict[str, Any] = dict(zip(names, inputs, strict=True))
        for node, finished in zip(self.graph["nodes"], self._last_uses, strict=True):
            value = self._call(node, values)
            values[node["name"]] = value
            if self.observe is not None and isinstance(value, np.ndarray):
                self.observe(node["name"], value)
            for name in finished:
                del values[name]
        return tuple(values[name] for name in self.graph["outputs"])

    def _call(self, node: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        arguments = {name: self._value(argument, values) for name, argument in node["arguments"].items()}
        kernel = KERNELS[node["operator"]]
        if node["operator"].startswith("python."):  # their arguments are named by position
            return kernel(*(arguments[str(position)] for position in range(len(arguments))))
        return kernel(**arguments)

    def _value(self, argument: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(argument, list):
            return [self._value(item, values) for item in argument]
        if not isinstance(argument, dict):
            return argument
        return values[argument["node"]] if "node" in argument else self.tensors[argument["tensor"]]


def _read(argument: Any) -> Iterator[str]:
    """The names of the values that an argument reads."""
    if isinstance(argument, list):
        for item in argument:
            yield from _read(item)
    elif isinstance(argument, dict) and "node" in argument:
        yield argument["node"]


def load(folder: Path, options: Mapping[str, Any], stored: Mapping[str, Any] | None = None) -> Interpreter:
    """Open a payload.

    Args:
        options: ``observe``, a callback; ``threads`` is accepted because every runtime takes it, and changes nothing:
            NumPy's BLAS takes its threads from ``OMP_NUM_THREADS`` when the process starts, and bits do not depend on them.
        stored: the record of tensors that are stored apart.

    Raises:
        ArtifactError: the graph has another format; tensors that are stored apart are malformed.
        BackendError: an unknown option.
    """
    unknown = sorted(options.keys() - {"observe", "threads"})
    if unknown:
        raise BackendError(f"unknown option {unknown[0]!r}", where="target 'reference'", way_on="it takes observe and threads")
    graph = json.loads((folder / GRAPH).read_text(encoding="utf-8"))
    if graph.get("format") != FORMAT:
        raise ArtifactError(f"graph format {graph.get('format')!r}, expected {FORMAT}", where=GRAPH, way_on="lower the program again")
    tensors = {**load_file(folder / TENSORS), **(apart.read(folder, stored) if stored else {})}
    return Interpreter(graph, tensors, options.get("observe"))
