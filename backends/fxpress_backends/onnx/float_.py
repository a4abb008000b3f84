"""float Program ==> ONNX by torch.onnx.export of the re-exported program, stripped of everything that names a machine."""

from __future__ import annotations

import copy
import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir import Dimension, Program
from fxpress_ir.errors import BackendError
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import fx

from ..reexport import origin_of, settle
from .walk import ORIGIN

OPSET = 20
"""What torch 2.13's exporter translates to without a version conversion of its own."""


def export(program: Program, translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None) -> ir.Model:
    """The program in ONNX; dynamic dimensions, inputs and outputs keep the program's names.

    Args:
        translations: ONNX functions of operators that torch has none for.

    Raises:
        BackendError: torch has no ONNX translation of an operator, or cannot export the program again.
    """
    known: dict[str, torch.export.Dim] = {}

    def dimension(size: Dimension) -> torch.export.Dim:
        return known.setdefault(size.name, torch.export.Dim(size.name, min=size.minimum, max=size.maximum))

    dynamic = tuple({d: dimension(size) for d, size in enumerate(spec.shape) if isinstance(size, Dimension)} for spec in program.inputs)
    module = fx.GraphModule(dict(program.tensors), copy.deepcopy(program.graph))
    names = [spec.name for spec in program.inputs]
    model = translated(module, program.example(), dynamic, names, translations=translations)
    _name(model, program)
    return model


def translated(
    module: fx.GraphModule,
    example: tuple[torch.Tensor, ...],
    dynamic: tuple[Any, ...],
    names: Sequence[str],
    *,
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    opset: int = OPSET,
) -> ir.Model:
    """A module of float operators in ONNX, without what its nodes remember of files and lines; equal tensors are stored once.

    Args:
        module: is changed.
        dynamic: for each input the dimensions that torch.export keeps symbolic.
        names: of the inputs.

    Raises:
        BackendError: torch has no ONNX translation of an operator, or cannot export the module.
    """
    settle(module)
    with _quiet():
        try:
            exported = torch.export.export(module, example, dynamic_shapes=dynamic)
            converted = torch.onnx.export(
                exported,
                input_names=list(names),
                opset_version=opset,
                dynamo=True,
                verbose=False,
                custom_translation_table=None if translations is None else dict(translations),
            )
        except Exception as error:  # the exporter raises whatever its many layers raise
            reason = next(line for line in [*str(error).splitlines(), type(error).__name__] if line.strip())
            raise BackendError(f"torch.onnx.export failed: {reason[:200]}", way_on="the full report is the cause") from error
    assert converted is not None
    model: ir.Model = converted.model
    _remember(model.graph, exported.graph)
    ClearMetadataAndDocStringPass()(model)
    _store_once(model.graph)
    return model


def _remember(graph: ir.Graph, exported: fx.Graph) -> None:
    """Each node that stands for one of the module keeps that one's name, in memory alone: values are named after exported nodes."""
    sources = {node.name: node for node in exported.nodes}
    for node in graph:
        source = next((sources[value.name] for value in node.outputs if value.name in sources), node.meta.get("node"))
        if isinstance(source, fx.Node):
            node.meta[ORIGIN] = origin_of(source)


def _store_once(graph: ir.Graph) -> None:
    """One initialiser for equal ones; onnx-ir's own pass cannot read a transposed tensor."""
    first: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
    for value in [*graph.initializers.values()]:
        if value.const_value is None or value.is_graph_output():
            continue
        array = np.ascontiguousarray(value.const_value.numpy())
        kept = first.setdefault((array.dtype.str, array.shape, hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()), value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            graph.initializers.pop(str(value.name))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that it could use and of its own deprecated calls; neither concerns the program."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name(model: ir.Model, program: Program) -> None:
    """Outputs after the program's nodes, symbolic sizes after its dimensions."""
    inner = {output.name: output for node in model.graph for output in node.outputs if not output.is_graph_output()}
    for node in program.outputs():  # the exporter numbers nodes anew, and may have given an output's name to another value
        if node.name in inner:
            inner[node.name].name = next(name for number in count() if (name := f"{node.name}_inner_{number}") not in inner)
    taken = {value.name for value in model.graph.inputs}
    for value, node in zip(model.graph.outputs, program.outputs(), strict=True):
        if value.name != node.name and node.name not in taken:
            value.name = node.name
        taken.add(value.name)
    names: dict[str, str] = {}
    for value, spec in zip(model.graph.inputs, program.inputs, strict=True):
        symbols = value.shape or ()
        names |= {str(symbol): size.name for symbol, size in zip(symbols, spec.shape, strict=True) if isinstance(size, Dimension)}
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([size if isinstance(size, int) else _renamed(str(size), names) for size in value.shape])


def _renamed(expression: str, names: dict[str, str]) -> str:
    return re.sub(r"\w+", lambda match: names.get(match.group(), match.group()), expression)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
