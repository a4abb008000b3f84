"""Every reason why a TVM target cannot take an integer program: one rule a kind of reason, read before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.ops import INTEGER_OPERATORS, SHAPE_OPERATORS, arguments, constant
from torch import Tensor, fx

from fxpress_backends.contract import Refusal, Target

from .draft import SHIFTED
from .nodes import is_identity, lead_of
from .pack import folded_bias
from .rules import RULES

Found = Iterator[tuple[fx.Node, str, str]]

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_TYPES = (torch.int8, torch.uint8, torch.int32, torch.float32)
_ACCUMULATING = (_fxp.conv2d.default, _fxp.linear.default)
_PARAMETERS = {_fxp.requantize.default: "b", _fxp.lut.default: "table"}
_WINDOWED = (_fxp.conv2d.default, _fxp.max_pool2d.default, _fxp.sum_pool2d.default)


def known_operators(program: Program, target: Target) -> Found:
    """The planner has a rule for each operator."""
    for node in _calls(program):
        if node.target in SHAPE_OPERATORS or getattr(INTEGER_OPERATORS.get(node.target), "name", "") in RULES:
            continue
        yield node, f"{node.target} has no TVM rule", "lower it to another target"


def constants_in_place(program: Program, target: Target) -> Found:
    """Tensors of the program stand only where kernels expect constants, and every output is computed."""
    for node in _calls(program):
        for name, argument in arguments(node).items():
            for value in argument if isinstance(argument, (list, tuple)) else [argument]:
                if isinstance(value, fx.Node) and (value.op == "get_attr") != (name in ("weight", "bias", "b", "table")):
                    kind = "a constant" if value.op == "get_attr" else "computed"
                    yield node, f"its {name} is {kind}", "lower it to another target"
    for node in program.outputs():
        if node.op == "get_attr" or not isinstance(node.meta["val"], Tensor):
            yield node, "an output that is not a computed tensor", "return a value that depends on the inputs"


def types_and_shapes(program: Program, target: Target) -> Found:
    """Tensors of 2 or more dimensions, only the first symbolic, of types that kernels hold."""
    names = program.symbols()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op not in ("placeholder", "call_function") or not isinstance(value, Tensor):
            continue
        shape = program.shape_of(node)
        if len(shape) < 2:
            yield node, f"shape {list(shape)} has fewer than 2 dimensions", "keep a batch dimension"
        elif any(isinstance(size, str) for size in shape[1:]):
            yield node, f"shape {list(shape)} is symbolic beyond dimension 0", "capture the model with that dimension fixed"
        elif lead_of(value.shape[0], names) is None:
            yield node, f"dimension 0, {shape[0]}, is not a multiple of one dynamic dimension", "keep the batch dimension whole"
        elif value.dtype not in _TYPES:
            yield node, f"type {value.dtype} has no kernel", "use float32, int8, uint8 or int32"


def paddings_add(program: Program, target: Target) -> Found:
    """No padding is negative."""
    for node in _calls(program):
        if node.target in _WINDOWED and min(arguments(node)["padding"]) < 0:
            yield node, f"padding {list(arguments(node)['padding'])} is negative", "slice before the operator"


def moves_are_static(program: Program, target: Target) -> Found:
    """Slices of fixed dimensions by fixed numbers, expansions to the same number of dimensions."""
    for node in _calls(program):
        named = arguments(node)
        if node.target is _aten.slice.Tensor and not is_identity(node):
            chosen = [number for number in (named["start"], named["end"], named["step"]) if number is not None]
            sizes = named["self"].meta["val"].shape[named["dim"]], *chosen
            if not all(isinstance(size, int) for size in sizes):
                yield node, f"dimension {named['dim']} is sliced by or along a dynamic size", "slice fixed dimensions by fixed numbers"
        elif node.target is _aten.expand.default and len(named["size"]) != len(program.shape_of(named["self"])):
            yield node, f"{list(program.shape_of(named['self']))} is expanded to {len(named['size'])} dimensions", "unsqueeze it before"


def operands_match(program: Program, target: Target) -> Found:
    """Operands of equal ranks, parameters along a fixed dimension, quantised ranges that float32 counts exactly."""
    for node in _calls(program):
        named = arguments(node)
        if node.target in (_fxp.add.default, _fxp.multiply.default):
            shapes = [program.shape_of(named[operand]) for operand in ("x", "y")]
            if len(shapes[0]) != len(shapes[1]):
                yield node, f"combines shapes {list(shapes[0])} and {list(shapes[1])}", "reshape both to the same number of dimensions"
        elif node.target in _PARAMETERS and named[_PARAMETERS[node.target]].meta["val"].shape[0] > 1:
            if named["axis"] % len(program.shape_of(node)) == 0:
                yield node, f"its {_PARAMETERS[node.target]} runs along dimension 0", "use one for the tensor or another axis"
        elif node.target is _fxp.quantize.default and max(-named["qmin"], named["qmax"]) > 1 << 22:
            yield node, f"range [{named['qmin']}, {named['qmax']}] is too wide", "quantise to at most 22 bits"


def accumulators_fit(program: Program, target: Target) -> Found:
    """s8 inputs stored as u8 with 128 added: ``sum |w| * 255 + |bias - 128 * sum w|`` still fits 32 bits."""
    for node in _calls(program):
        if target.storage != SHIFTED or node.target not in _ACCUMULATING:
            continue
        named = arguments(node)
        if named["x"].meta["val"].dtype is not torch.int8:
            continue
        weight = constant(named["weight"], program.tensors)
        bias = np.zeros(1, np.int64) if named["bias"] is None else constant(named["bias"], program.tensors)
        reach = np.abs(weight).reshape(len(weight), -1).sum(1) * 255 + np.abs(folded_bias(weight, bias, 128))
        if reach.max() >= 1 << 31:
            yield node, f"its accumulator reaches {reach.max()} over u8 storage", "take tvm:x86-64, which keeps s8"


RULE_TABLE: tuple[Callable[[Program, Target], Found], ...] = (
    known_operators,
    constants_in_place,
    types_and_shapes,
    paddings_add,
    moves_are_static,
    operands_match,
    accumulators_fit,
)


def refusals(program: Program, target: Target) -> tuple[Refusal, ...]:
    """Every refusal; later rules build on earlier ones, so the first rule that finds any ends the search."""
    if program.stage not in target.stages:
        way_on = f"{target.name} takes {' or '.join(target.stages)} programs"
        return (Refusal("program", f"its stage is {program.stage}", way_on),)
    for rule in RULE_TABLE:
        found = tuple(Refusal(node.name, reason, way_on) for node, reason, way_on in rule(program, target))
        if found:
            return found
    return ()


def _calls(program: Program) -> list[fx.Node]:
    """The operators that compute tensors."""
    return [node for node in program.graph.nodes if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)]
