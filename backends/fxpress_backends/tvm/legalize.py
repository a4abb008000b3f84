"""Every reason why a TVM target cannot take a program: one rule a kind of reason, read before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from fxpress_ir import Program
from fxpress_ir.ops import COMPARISONS, INTEGER_OPERATORS, LOGIC_OPERATORS, LOOKUP_OPERATORS, SHAPE_OPERATORS, arguments, constant
from torch import Tensor, fx

from fxpress_backends.contract import Refusal, Target
from fxpress_backends.reexport import is_size, island_nodes

from .islands import float_parts
from .layout import SHIFTED, images
from .nodes import is_fixed, is_identity
from .pack import folded_bias
from .rules import RULES
from .sizes import extent_of
from .steps import first_of

Found = Iterator[tuple[fx.Node, str, str]]

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_TYPES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32, torch.bool)
_TYPES_OF_FLOATS = (*_TYPES, torch.float64)
_ACCUMULATING = (_fxp.conv2d.default, _fxp.linear.default)
_PARAMETERS = {
    _fxp.requantize.default: ("b",),
    _fxp.lut.default: ("table",),
    _fxp.lut16.default: ("table",),
    _fxp.affine.default: ("g", "b"),
}
_WINDOWED = (_fxp.conv2d.default, _fxp.max_pool2d.default, _fxp.sum_pool2d.default)


def known_operators(program: Program, target: Target) -> Found:
    """The planner has a rule for each operator."""
    ruled = SHAPE_OPERATORS | LOOKUP_OPERATORS | LOGIC_OPERATORS
    for node in _calls(program):
        if node.target in ruled or getattr(INTEGER_OPERATORS.get(node.target), "name", "") in RULES:
            continue
        yield node, f"{node.target} has no TVM rule", "lower it to another target"


def constants_in_place(program: Program, target: Target) -> Found:
    """Tables, weights and the like are tensors of the program, other tensors have a place in memory, and every output is computed."""
    for node in _calls(program):
        for name, argument in arguments(node).items():
            fixed = name == "table" or (name in ("weight", "bias", "g", "b") and node.target is not _fxp.attention.default)
            for value in argument if isinstance(argument, (list, tuple)) else [argument]:
                if not isinstance(value, fx.Node):
                    continue
                if fixed and value.op != "get_attr":
                    yield node, f"its {name} is computed", "lower it to another target"
                elif not fixed and is_fixed(value) and value.meta["val"].dim() < 2 and not is_fixed(node):
                    yield node, f"its {name} is a constant of fewer than 2 dimensions", "store it with leading dimensions of 1"
                elif not fixed and value.op == "get_attr" and value.meta["val"].is_floating_point():
                    yield node, f"its {name} is a constant of floats", "quantise it before"
    for node in program.outputs():
        if node.op == "get_attr" or not isinstance(node.meta["val"], Tensor):
            yield node, "an output that is not a computed tensor", "return a value that depends on the inputs"


def types_and_shapes(program: Program, target: Target) -> Found:
    """Tensors of 2 or more dimensions, images with only the first symbolic, of types that kernels hold or that islands alone read."""
    names, of_images, inside = program.symbols(), images(program), island_nodes(program)
    for node in (*program.placeholders(), *_calls(program)):
        value = node.meta["val"]
        free = node.op == "placeholder" and node.users and all(user in inside or is_size(user) for user in node.users)
        shape = program.shape_of(node)
        unknown = [d for d, size in enumerate(value.shape) if extent_of(size, names) is None]
        if len(shape) < 2 and not is_fixed(node):
            yield node, f"shape {list(shape)} has fewer than 2 dimensions", "keep a batch dimension"
        elif node in of_images and any(isinstance(size, str) for size in shape[1:]):
            yield node, f"an image of shape {list(shape)} is symbolic beyond dimension 0", "capture the model with all but the batch fixed"
        elif unknown:
            reason = f"dimension {unknown[0]}, {shape[unknown[0]]}, is no sum of products of dynamic dimensions"
            yield node, reason, "capture the model with that dimension fixed"
        elif value.dtype not in (_TYPES_OF_FLOATS if free else _TYPES):
            yield node, f"type {value.dtype} has no kernel", "use float32, bool, int8, uint8, int16, int32 or int64"


def paddings_add(program: Program, target: Target) -> Found:
    """No padding is negative."""
    for node in _calls(program):
        if node.target in _WINDOWED and min(arguments(node)["padding"]) < 0:
            yield node, f"padding {list(arguments(node)['padding'])} is negative", "slice before the operator"


def moves_are_found(program: Program, target: Target) -> Found:
    """Slices and selections start from sizes that kernels know, and nothing is joined along a symbolic last dimension."""
    names = program.symbols()
    for node in _calls(program):
        named = arguments(node)
        if node.target in (_aten.slice.Tensor, _aten.select.int) and not is_identity(node) and first_of(node, names) is None:
            given = named["index" if node.target is _aten.select.int else "start"]
            yield node, f"dimension {named['dim']} is read from {given} on, which is no number", "read from a number or a dynamic size on"
        elif node.target is _fxp.concat.default and isinstance(program.shape_of(node)[-1], str):
            if (named["axis"] + 1) % len(program.shape_of(node)) == 0:
                yield node, f"joins along a last dimension of {program.shape_of(node)[-1]}", "transpose its operands before"


def operands_match(program: Program, target: Target) -> Found:
    """Operands of equal ranks, parameters along a fixed dimension, quantised ranges that float32 counts exactly."""
    for node in _calls(program):
        named = arguments(node)
        joins = node.target in LOGIC_OPERATORS - COMPARISONS and "other" in named
        if joins or node.target in (_fxp.add.default, _fxp.multiply.default):
            shapes = [program.shape_of(named[operand]) for operand in (("self", "other") if joins else ("x", "y"))]
            if len(shapes[0]) != len(shapes[1]):
                yield node, f"combines shapes {list(shapes[0])} and {list(shapes[1])}", "reshape both to the same number of dimensions"
        elif node.target is _fxp.rotary.default:
            ranks = [len(program.shape_of(named[operand])) for operand in ("x", "cosine", "sine")]
            if len(set(ranks)) > 1:
                yield node, f"its operands have {', '.join(map(str, ranks))} dimensions", "give them the same number of dimensions"
            elif isinstance(program.shape_of(node)[-1], str):
                yield node, "its last dimension is symbolic", "capture the model with that dimension fixed"
        elif node.target in (_fxp.attention.default, _fxp.matmul.default) and len(program.shape_of(node)) < 3:
            yield node, "it has no leading dimension", "unsqueeze its operands before"
        elif node.target in _PARAMETERS and named["axis"] % len(program.shape_of(node)) == 0:
            along = [name for name in _PARAMETERS[node.target] if named[name].meta["val"].shape[0] > 1]
            yield from ((node, f"its {name} runs along dimension 0", "use one for the tensor or another axis") for name in along)
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


def floats_are_wide(program: Program, target: Target) -> Found:
    """Types in which the importer's kernels are as exact as PyTorch, in a float program and in islands."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        inside = program.stage == "float" or node.name in program.islands
        if inside and isinstance(value, Tensor) and value.dtype not in _TYPES_OF_FLOATS:
            yield node, f"type {value.dtype} in a float operator", "use float32"


RULE_TABLE: tuple[Callable[[Program, Target], Found], ...] = (
    known_operators,
    constants_in_place,
    types_and_shapes,
    paddings_add,
    moves_are_found,
    operands_match,
    accumulators_fit,
)


def refusals(program: Program, target: Target) -> tuple[Refusal, ...]:
    """Every refusal; later rules build on earlier ones, so the first rule that finds any ends the search."""
    return broken_rules(program, target) or (() if program.stage == "integer" else _not_imported(program))


def broken_rules(program: Program, target: Target) -> tuple[Refusal, ...]:
    """What the rules find; TVM's importer, which takes long, is not asked."""
    if program.stage not in target.stages:
        way_on = f"{target.name} takes {' or '.join(target.stages)} programs"
        return (Refusal("program", f"its stage is {program.stage}", way_on),)
    for rule in {"float": (floats_are_wide,), "mixed": (*RULE_TABLE, floats_are_wide), "integer": RULE_TABLE}[program.stage]:
        found = tuple(Refusal(node.name, reason, way_on) for node, reason, way_on in rule(program, target))
        if found:
            return found
    return ()


def _not_imported(program: Program) -> tuple[Refusal, ...]:
    from .float_ import RefusedError, imported  # with it comes TVM

    refused: list[Refusal] = []
    for part in float_parts(program).values():
        try:
            imported(part)
        except RefusedError as error:
            refused += error.refusals
    return tuple(refused)


def _calls(program: Program) -> list[fx.Node]:
    """The operators that compute tensors, islands aside."""
    inside = island_nodes(program)
    calls = (node for node in program.graph.nodes if node.op == "call_function" and node not in inside)
    return [node for node in calls if isinstance(node.meta.get("val"), Tensor)]
