"""The rules of each stage, one function a rule; a rule yields what breaks it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .analysis.ranges import integer_ranges
from .errors import VerifyError
from .logic import logic_of_integers
from .ops import INTEGER_OPERATORS, LOGIC_OPERATORS, LOOKUP_OPERATORS, OPERATORS, SHAPE_OPERATORS, SIZE_OPERATORS, arguments
from .printer import node_text
from .program import Program

_fxp = torch.ops.fxp
_BUILTINS = frozenset({operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv})
"""Python operators on sizes; "no division" is about values, not about shapes."""
_SIZE_MATH = _BUILTINS | {
    operator.mod,
    operator.neg,
    operator.truediv,
    operator.pow,
    pow,
    torch.sym_float,
    torch.sym_int,
    torch.sym_max,
    torch.sym_min,
}
"""What else computes on sizes where floats may be, as in ``tokens ** -0.5``."""
_INTEGER = INTEGER_OPERATORS.keys() | SHAPE_OPERATORS | LOOKUP_OPERATORS | LOGIC_OPERATORS | SIZE_OPERATORS
_FAKE = (_fxp.fake_quantize.default, _fxp.fake_quantize_channels.default)
_BYTES, _SHORTS, _WORDS = (torch.int8, torch.uint8), (torch.int16,), (torch.int32,)
_ACTIVATIONS = _BYTES + _SHORTS


@dataclass(frozen=True)
class Violation:
    """One broken rule: which, at which node, and why."""

    rule: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason} (rule {self.rule})"


@dataclass(frozen=True)
class Certificate:
    """What the verifier found: the rules that hold and, for an integer program, every proved fact."""

    stage: str
    program_hash: str
    rules: tuple[str, ...]
    facts: tuple[dict[str, Any], ...] = ()


Found = Iterator[tuple[fx.Node | str, str]]
Rule = Callable[[Program], Found]


def graph_is_flat(program: Program) -> Found:
    """Only placeholders, tensors, operator overloads and one output that returns a tuple of nodes."""
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            yield node, f"a {node.op} node is not an operator call"
        elif node.op == "call_function" and not isinstance(node.target, torch._ops.OpOverload) and node.target not in _SIZE_MATH:
            yield node, f"{node.target} is not an operator overload"
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            yield node, "the operator writes to its argument"
    returned = program.graph.output_node().args[0]
    if not isinstance(returned, (tuple, list)) or not all(isinstance(node, fx.Node) for node in returned):
        yield program.graph.output_node(), "it does not return a flat tuple of values"


def tensors_match(program: Program) -> Found:
    """Every tensor that the graph names exists, and every value carries its fake value."""
    for node in program.graph.nodes:
        if node.op == "get_attr" and node.target not in program.tensors:
            yield node, f"tensor {node.target!r} is missing"
        elif node.op != "output" and "val" not in node.meta:
            yield node, "its shape was never propagated"
        elif node.op == "get_attr" and _kind(program.tensors[str(node.target)]) != _kind(node.meta["val"]):
            yield node, f"tensor {node.target!r} and its recorded shape or dtype differ"


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.Size]:
    return tensor.dtype, tensor.shape


def no_fxp_operators(program: Program) -> Found:
    """A float program holds no operator of ours."""
    for node in program.graph.nodes:
        if node.target in OPERATORS:
            yield node, "an fxp operator in a float program"


def only_fake_quantizers(program: Program) -> Found:
    """A simulated program is float ATen with fake quantisers."""
    for node in program.graph.nodes:
        if node.target in OPERATORS and node.target not in _FAKE:
            yield node, "only fake quantisers may stand in a simulated program"


def scales_and_ranges(program: Program) -> Found:
    """Scales are constants, positive and finite in float32; ranges are not empty."""
    for node in program.graph.nodes:
        named = arguments(node) if node.target in OPERATORS else {}
        scale = named.get("scale", 1.0)
        if isinstance(scale, fx.Node) and scale.op != "get_attr":
            yield node, "its scale is not a constant"
        else:
            values = torch.as_tensor(program.tensors[str(scale.target)] if isinstance(scale, fx.Node) else scale, dtype=torch.float32)
            if not bool((torch.isfinite(values) & (values > 0)).all()):
                yield node, "its scale is not positive and finite"
        if "qmin" in named and not named["qmin"] < named["qmax"]:
            yield node, f"its range [{named['qmin']}, {named['qmax']}] is empty"


def ends_in_steps(program: Program) -> Found:
    """What is given in steps is an integer, and a step is positive and finite in float32."""
    ends = [(node, spec.scale) for node, spec in zip(program.placeholders(), program.inputs, strict=True)]
    for node, scale in [*ends, *zip(program.outputs(), program.output_steps(), strict=True)]:
        if scale is not None and node.meta["val"].dtype not in _ACTIVATIONS + _WORDS:
            yield node, f"{node.meta['val'].dtype} in steps of {scale}"
        elif scale is not None and not 0 < float(torch.tensor(scale, dtype=torch.float32)) < float("inf"):
            yield node, f"its step {scale} is not positive and finite"


def integer_between_borders(program: Program) -> Found:
    """Floats stand only before ``fxp::quantize`` and after ``fxp::dequantize``; nothing else computes on them."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        if node.op == "get_attr":
            yield node, "a float tensor in an integer program"
        elif node.op == "placeholder":
            for user in node.users:
                if user.target is not _fxp.quantize.default and user.target not in SIZE_OPERATORS and user.op != "output":
                    yield user, "reads a float input without quantising it"
        elif node.target is not _fxp.dequantize.default:
            yield node, "a float operator in an integer program"
        else:
            for user in node.users:
                if user.op != "output":
                    yield user, "computes on a dequantised value"


def floats_in_islands(program: Program) -> Found:
    """In a mixed program floats are computed by the named islands alone; they meet integers at the borders."""
    named = set(program.islands)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "get_attr" and value.is_floating_point():
            for user in node.users:
                if user.name not in named:
                    yield user, "reads a float tensor outside an island"
        elif node.op == "call_function" and node.name not in named:
            if node.target not in _INTEGER and not (node.target in _BUILTINS and not isinstance(value, Tensor)):
                yield node, f"{node.target} is not an integer operator"
            elif isinstance(value, Tensor) and value.is_floating_point() and node.target is not _fxp.dequantize.default:
                yield node, "a float operator outside an island"
    for name in sorted(named - {node.name for node in program.graph.nodes}):
        yield name, "the program has no such island"


def known_integer_operators(program: Program) -> Found:
    """Every operator is in the operator table or moves values without changing them; so nothing divides."""
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target in _INTEGER:
            continue
        if node.target not in _BUILTINS or isinstance(node.meta.get("val"), Tensor):
            yield node, f"{node.target} is not an integer operator"


def operand_types(program: Program) -> Found:
    """8-bit and 16-bit activations, narrow s8 weights, int32 accumulators, biases and multipliers; what is fixed is a constant."""
    wanted: dict[str, dict[str, tuple[torch.dtype, ...]]] = {
        "quantize": {"x": (torch.float32,), "dtype": _ACTIVATIONS + _WORDS},
        "dequantize": {"q": _ACTIVATIONS + _WORDS},
        "conv2d": {"x": _ACTIVATIONS, "weight": (torch.int8,), "bias": _WORDS},
        "linear": {"x": _ACTIVATIONS, "weight": (torch.int8,), "bias": _WORDS},
        "requantize": {"x": _ACTIVATIONS + _WORDS, "b": _WORDS, "dtype": _ACTIVATIONS + _WORDS},
        "add": {"x": _ACTIVATIONS, "y": _ACTIVATIONS, "dtype": _ACTIVATIONS + _WORDS},
        "max_pool2d": {"x": _ACTIVATIONS},
        "sum_pool2d": {"x": _ACTIVATIONS},
        "multiply": {"x": _ACTIVATIONS, "y": _ACTIVATIONS},
        "lut": {"x": _BYTES, "table": _BYTES},
        "lut16": {"x": _SHORTS, "table": _SHORTS},
        "concat": {"xs": _ACTIVATIONS},
        "pad2d": {"x": _ACTIVATIONS},
        "select2d": {"x": _ACTIVATIONS},
        "insert_zeros": {"x": _ACTIVATIONS},
        "normalize": {"x": _ACTIVATIONS},
        "affine": {"u": _ACTIVATIONS + _WORDS, "g": _WORDS, "b": _WORDS, "dtype": _ACTIVATIONS},
        "matmul": {"x": _BYTES, "y": _BYTES},
        "softmax": {"x": (torch.int8,), "table": _WORDS},
        "attention": {
            **dict.fromkeys(("q", "k", "v"), _BYTES),
            **{"mask": (torch.bool,), "bias": _WORDS, "table": (torch.uint8,), "dtype": _ACTIVATIONS},
        },
        "positions": {"mask": (torch.bool,)},
        "rotary": {"x": (torch.int8, torch.int16), "cosine": _SHORTS, "sine": _SHORTS, "dtype": _ACTIVATIONS},
    }
    for node in program.graph.nodes:
        if node.target not in INTEGER_OPERATORS:
            continue
        named = arguments(node)
        for operand, dtypes in wanted.get(INTEGER_OPERATORS[node.target].name, {}).items():
            for value in named[operand] if isinstance(named[operand], (list, tuple)) else [named[operand]]:
                dtype = value.meta["val"].dtype if isinstance(value, fx.Node) else value
                if dtype is not None and dtype not in dtypes:
                    yield node, f"{operand} is {dtype}, expected {' or '.join(map(str, dtypes))}"
                fixed = operand in ("weight", "bias", "g", "b", "table") and node.target is not _fxp.attention.default
                if (fixed or operand == "table") and value is not None and value.op != "get_attr":
                    yield node, f"its {operand} is not a constant"
        weight = named.get("weight")
        if weight is not None and weight.op == "get_attr" and bool((program.tensors[str(weight.target)] == -128).any()):
            yield node, "a weight of -128 is outside the narrow range [-127, 127]"


def lookups_in_constants(program: Program) -> Found:
    """Rows are taken of constant tables of 8-bit or 16-bit activations, outside of float islands."""
    for node in program.graph.nodes:
        if node.target not in LOOKUP_OPERATORS or node.name in program.islands:
            continue
        table = arguments(node)["weight"]
        if table.op != "get_attr":
            yield node, "its table is not a constant"
        elif table.meta["val"].dtype not in _ACTIVATIONS:
            yield node, f"its table is {table.meta['val'].dtype}, expected {' or '.join(map(str, _ACTIVATIONS))}"


def everything_fits(program: Program) -> Found:
    """Interval arithmetic from the actual weights: every accumulator, product, shift and result fits its width."""
    ranges = integer_ranges(program.graph, program.tensors)
    for node in ranges.unproved:
        if node.name not in program.islands:
            yield node, "no proof rule covers it"
    for fact in ranges.facts:
        if not fact.holds:
            yield fact.node, f"{fact.what} reaches [{fact.low}, {fact.high}], outside [{fact.least}, {fact.most}]"


_ALWAYS: tuple[Rule, ...] = (graph_is_flat, tensors_match)
_INTEGERS: tuple[Rule, ...] = (operand_types, lookups_in_constants, logic_of_integers, scales_and_ranges, ends_in_steps)
RULES: dict[str, tuple[Rule, ...]] = {
    "float": (*_ALWAYS, no_fxp_operators),
    "simulated": (*_ALWAYS, only_fake_quantizers, scales_and_ranges),
    "mixed": (*_ALWAYS, floats_in_islands, *_INTEGERS, everything_fits),
    "integer": (*_ALWAYS, known_integer_operators, integer_between_borders, *_INTEGERS, everything_fits),
}
"""The table of rules: what each stage promises."""


def violations(program: Program) -> list[Violation]:
    """Every broken rule. Later rules build on earlier ones, so the first rule that breaks ends the search."""
    for rule in RULES[program.stage]:
        found = [Violation(rule.__name__, str(node), reason) for node, reason in rule(program)]
        if found:
            return found
    return []


def verify(program: Program) -> Certificate:
    """Hold a program to the rules of its stage.

    Raises:
        VerifyError: naming the first violation; all of them and their nodes are in the notes.
    """
    found = violations(program)
    if found:
        error = VerifyError(found[0].reason, where=f"{program.stage} program, {found[0].node}", way_on=f"broken rule: {found[0].rule}")
        by_name = {node.name: node for node in program.graph.nodes}
        for violation in found:
            node = by_name.get(violation.node)
            line = "" if node is None or node.op != "call_function" else f"\n    {node_text(program, node)}"
            error.add_note(f"{violation}{line}")
        raise error
    facts = integer_ranges(program.graph, program.tensors).facts if program.stage in ("integer", "mixed") else ()
    rules = tuple(rule.__name__ for rule in RULES[program.stage])
    return Certificate(program.stage, program.hash, rules, tuple(asdict(fact) for fact in facts))
