"""nn.Module or ExportedProgram ==> Program of functional ATen operators, dynamic dimensions kept symbolic."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor
from torch.export import Dim, ExportedProgram

from .errors import CaptureError, FxpressError
from .functional import drop_assertions, make_functional
from .inline import inline_wrappers
from .program import Program
from .pt2 import load_pt2
from .signature import Dimension, InputSpec
from .verify import verify

STRICT_LIMIT = 1 << 30
"""Bytes of weights above which export is tried non-strict first: the strict one holds a second copy while it traces."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


def capture(
    model: nn.Module | ExportedProgram | str | PathLike[str],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Program:
    """Capture a model once as a float Program.

    Modules are captured in evaluation mode (their mode is restored). ``torch.export`` is tried strict, then non-strict; from
    `STRICT_LIMIT` bytes of weights on the other way round.
    Example sizes of 1 along dynamic dimensions are repeated to 2 first, because export would freeze them.

    Args:
        model: a module, a program that ``torch.export.export`` made, or the path of a ``.pt2`` file (opened by
            `pt2.load_pt2`, which executes nothing).
        args, kwargs: example inputs of a module; any batch size.
        dynamic_shapes: as ``torch.export.export`` takes it, e.g. ``{"x": {0: fx.Dim("batch")}}``.

    Raises:
        CaptureError: the model branches on its data, writes to an input or a weight, or holds NaN; the message names the
            user's file and line where there is one, and the fix.
    """
    dynamic: list[dict[int, Any]] = []
    if isinstance(model, (str, PathLike)):
        model = load_pt2(model)
    if isinstance(model, ExportedProgram):
        exported = model
    elif isinstance(model, nn.Module):
        positional, named = _specs(model, tuple(args), dict(kwargs or {}), dynamic_shapes)
        example = tuple(map(_widen, args, positional)), {name: _widen(value, named[name]) for name, value in (kwargs or {}).items()}
        dynamic = [*_leaves(example[0], positional), *_leaves(example[1], named)]
        exported = _export(model, *example, dynamic_shapes)
    else:
        raise CaptureError(f"cannot capture a {type(model).__name__}", way_on="pass an nn.Module, an ExportedProgram or a .pt2 file")
    module = exported.module(check_guards=False)
    graph, tensors = _plain(module)
    drop_assertions(graph)
    make_functional(graph)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    used = {str(node.target) for node in graph.find_nodes(op="get_attr")}
    tensors = {name: tensor for name, tensor in tensors.items() if name in used}
    _check_values(tensors)
    program = Program(graph, tensors, _signature(graph, exported, dynamic))
    verify(program)
    return program


def _weight_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _silent() -> Iterator[None]:
    """Keep export's own reports off the terminal; they stay in the exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(level)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> ExportedProgram:
    failures = []
    with _evaluating(model), _silent():
        for strict in (True, False) if _weight_bytes(model) <= STRICT_LIMIT else (False, True):
            try:
                return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=strict)
            except FxpressError:
                raise
            except Exception as error:  # torch.export raises whatever the user's code or its own layers raise
                failures.append(error)
    raise _explained(model, failures) from failures[-1]


def _specs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> tuple[list[Any], dict[str, Any]]:
    """The part of `dynamic_shapes` that belongs to each positional and keyword argument."""
    if not shapes:
        return [None] * len(args), dict.fromkeys(kwargs)
    parameters = inspect.signature(model.forward).parameters
    names = [*parameters]
    if isinstance(shapes, Mapping):
        unknown = sorted(set(shapes) - set(names))
        if unknown:
            message = f"dynamic_shapes names {unknown[0]!r}"
            raise CaptureError(message, where=type(model).__name__, way_on=f"forward takes {', '.join(names)}")
        by_name = {name: shapes.get(name) for name in names}
    else:
        by_name = dict(zip(names, [*shapes, *[None] * len(names)], strict=False))
    positional: list[Any] = []
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            positional += by_name[name] or []
        if parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            break
        positional.append(by_name[name])
    positional += [None] * len(args)
    return positional[: len(args)], {name: by_name.get(name) for name in kwargs}


def _leaves(value: Any, spec: Any) -> Iterator[dict[int, Any]]:
    """For each tensor in `value`, its dynamic dimensions, in the order in which export lists inputs."""
    if isinstance(value, Tensor):
        pairs = () if spec is None else spec.items() if isinstance(spec, Mapping) else enumerate(spec)
        yield {dimension: size for dimension, size in pairs if not (size is None or isinstance(size, int) or size is Dim.STATIC)}
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, None if spec is None else spec.get(key))
    elif isinstance(value, (list, tuple)):
        for item, part in zip(value, spec or [None] * len(value), strict=True):
            yield from _leaves(item, part)


def _widen(value: Any, spec: Any) -> Any:
    """The example with dynamic dimensions of size 1 repeated to 2."""
    if isinstance(value, Tensor):
        for dimension in next(_leaves(value, spec)):
            if value.shape[dimension] == 1:
                value = value.repeat_interleave(2, dimension)
        return value
    if spec is not None and isinstance(value, Mapping):
        return {key: _widen(item, spec.get(key)) for key, item in value.items()}
    if spec is not None and isinstance(value, (list, tuple)):
        return type(value)(_widen(item, part) for item, part in zip(value, spec, strict=True))
    return value


def _explained(model: nn.Module, failures: list[Exception]) -> CaptureError:
    """One line out of what strict and non-strict export said: the user's file and line, and the fix."""
    text = "\n".join(str(error) for error in failures)
    frames = [frame for frame in _FRAME.findall(text) if f"{Path(torch.__file__).parent}" not in frame[0]]
    traceback = failures[-1].__traceback__
    while not frames and traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_name == "forward" and str(Path(torch.__file__).parent) not in code.co_filename:
            frames.append((code.co_filename, str(traceback.tb_lineno), code.co_name))
        traceback = traceback.tb_next
    where = f"{frames[-1][0]}:{frames[-1][1]}" if frames else type(model).__name__
    if re.search(r"[Dd]ata.dependent|could not guard|Could not guard|unbacked", text):
        return CaptureError("control flow depends on tensor values", where=where, way_on="use torch.where instead of `if`")
    first = next((line.strip() for line in str(failures[-1]).splitlines() if line.strip()), type(failures[-1]).__name__)
    return CaptureError(f"torch.export failed: {first[:200]}", where=where, way_on="make forward exportable; the full report is the cause")


def _plain(module: fx.GraphModule) -> tuple[fx.Graph, dict[str, Tensor]]:
    """A graph with flat inputs, a flat tuple of outputs, and only the metadata that later floors read."""
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    returned = graph.graph_copy(module.graph, nodes)
    outputs = [node for node in (returned if isinstance(returned, (list, tuple)) else [returned]) if node is not None]
    if not outputs or not all(isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor) for node in outputs):
        raise CaptureError("the model returns a Python value", where="outputs", way_on="return tensors only")
    graph.output(tuple(outputs))
    inline_wrappers(graph, module)
    for node in graph.nodes:
        trace = _FRAME.findall(node.meta.get("stack_trace") or "")
        stack = node.meta.get("nn_module_stack") or {}
        modules = [path for path, _ in stack.values()]
        node.meta = {"val": node.meta["val"], "provenance": node.name} if "val" in node.meta else {}
        if trace:
            node.meta["source"] = f"{trace[-1][0]}:{trace[-1][1]}"
        if modules:
            node.meta["module"] = modules[-1]
    tensors: dict[str, Tensor] = {}
    for node in graph.find_nodes(op="get_attr"):
        value = fx.graph_module._get_attr(module, str(node.target))
        if not isinstance(value, Tensor):
            raise CaptureError(f"{node.target} is a {type(value).__name__}", where=str(node.target), way_on="only tensors can be captured")
        tensors[str(node.target)] = value
    return graph, tensors


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if isinstance(tensor, FakeTensor):
            way_on = "read the parameter itself; an adapter of PEFT's can be folded from its folder"
            raise CaptureError(
                "torch.export lost its value: forward reads the .data of a parameter", where=f"weight {name!r}", way_on=way_on
            )
        if tensor.is_floating_point() and bool(torch.isnan(tensor.detach().sum())) and bool(torch.isnan(tensor.detach()).any()):
            raise CaptureError("holds NaN", where=f"weight {name!r}", way_on="repair or retrain the model before compressing it")


def _signature(graph: fx.Graph, exported: ExportedProgram, dynamic: list[dict[int, Any]]) -> tuple[InputSpec, ...]:
    known: dict[str, Dimension] = {}

    def dimension(size: Any, label: Any) -> int | Dimension:
        if isinstance(size, int):
            return size
        symbol = str(size.node.expr)
        if symbol not in known:
            bounds = exported.range_constraints.get(size.node.expr)
            least = 1 if bounds is None else max(1, int(bounds.lower))
            most = None if bounds is None or not bounds.upper.is_finite or bounds.upper > 2**31 else int(bounds.upper)
            known[symbol] = Dimension(getattr(label, "__name__", symbol), least, most)
        return known[symbol]

    specs = []
    for position, node in enumerate(graph.find_nodes(op="placeholder")):
        value = node.meta.get("val")
        labels = dynamic[position] if position < len(dynamic) else {}
        if not isinstance(value, Tensor):
            message = f"input is a {type(value).__name__}"
            raise CaptureError(message, where=f"input {node.name!r}", way_on="pass tensors, close over the rest")
        shape = tuple(dimension(size, labels.get(axis)) for axis, size in enumerate(value.shape))
        specs.append(InputSpec(node.name, shape, value.dtype))
    return tuple(specs)
