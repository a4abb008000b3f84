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
from .ops import INTEGER_OPERATORS, OPERATORS, SHAPE_OPERATORS, SIZE_OPERATORS, arguments
from .printer import node_text
from .program import Program

_fxp = torch.ops.fxp
_BORDERS = (_fxp.quantize.default, _fxp.dequantize.default)
_BUILTINS = frozenset({operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv})
"""Python operators on sizes; "no division" is about values, not about shapes."""
_INTEGER = INTEGER_OPERATORS.keys() | SHAPE_OPERATORS | SIZE_OPERATORS
_FAKE = (_fxp.fake_quantize.default, _fxp.fake_quantize_channels.default)


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
        elif node.op == "call_function" and not isinstance(node.target, torch._ops.OpOverload) and node.target not in _BUILTINS:
            yield node, f"{node.target} is not an operator overload"
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            yield node, "the operator writes to its argument"
    if not all(isinstance(node, fx.Node) for node in program.outputs()):
        yield program.graph.output_node(), "an output is not a computed value"


def tensors_match(program: Program) -> Found:
    """Every tensor that the graph names exists, and every value carries its fake value."""
    for node in program.graph.nodes:
        if node.op == "get_attr" and node.target not in program.tensors:
            yield node, f"tensor {node.target!r} is missing"
        elif node.op == "get_attr" and program.tensors[str(node.target)].shape != node.meta["val"].shape:
            yield node, f"tensor {node.target!r} and its recorded shape differ"
        elif node.op != "output" and "val" not in node.meta:
            yield node, "its shape was never propagated"


def no_fxp_operators(program: Program) -> Found:
    """A float program holds no operator of ours."""
    for node in program.graph.nodes:
        if node.target in OPERATORS:
            yield node, "an fxp operator in a float program"


def only_fake_quantizers(program: Program) -> Found:
    """A simulated program is float ATen with fake quantisers; their scales are positive and their ranges not empty."""
    for node in program.graph.nodes:
        if node.target not in OPERATORS:
            continue
        if node.target not in _FAKE:
            yield node, "only fake quantisers may stand in a simulated program"
            continue
        named = arguments(node)
        scale = named["scale"]
        values = program.tensors[str(scale.target)] if isinstance(scale, fx.Node) else torch.tensor(scale)
        if not bool((torch.isfinite(values) & (values > 0)).all()):
            yield node, "its scale is not positive and finite"
        if not named["qmin"] < named["qmax"]:
            yield node, f"its range [{named['qmin']}, {named['qmax']}] is empty"


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
                if user.target is not _fxp.quantize.default and user.op != "output":
                    yield user, "reads a float input without quantising it"
        elif node.target is not _fxp.dequantize.default:
            yield node, "a float operator in an integer program"
        else:
            for user in node.users:
                if user.op != "output":
                    yield user, "computes on a dequantised value"


def known_integer_operators(program: Program) -> Found:
    """Every operator is in the operator table or moves values without changing them; so nothing divides."""
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target in _INTEGER:
            continue
        if node.target not in _BUILTINS or isinstance(node.meta.get("val"), Tensor):
            yield node, f"{node.target} is not an integer operator"


def operand_types(program: Program) -> Found:
    """8-bit activations, narrow s8 weights, int32 accumulators, biases and multipliers."""
    wanted: dict[str, dict[str, tuple[torch.dtype, ...]]] = {
        "conv2d": {"x": (torch.int8, torch.uint8), "weight": (torch.int8,), "bias": (torch.int32,)},
        "linear": {"x": (torch.int8, torch.uint8), "weight": (torch.int8,), "bias": (torch.int32,)},
        "requantize": {"x": (torch.int8, torch.uint8, torch.int32), "b": (torch.int32,)},
        "add": {"x": (torch.int8, torch.uint8), "y": (torch.int8, torch.uint8)},
        "max_pool2d": {"x": (torch.int8, torch.uint8)},
        "sum_pool2d": {"x": (torch.int8, torch.uint8)},
    }
    for node in program.graph.nodes:
        if node.target not in INTEGER_OPERATORS:
            continue
        named = arguments(node)
        for operand, dtypes in wanted.get(INTEGER_OPERATORS[node.target].name, {}).items():
            value = named[operand]
            if value is not None and value.meta["val"].dtype not in dtypes:
                yield node, f"{operand} is {value.meta['val'].dtype}, expected {' or '.join(map(str, dtypes))}"
        weight = named.get("weight")
        if weight is not None and weight.op != "get_attr":
            yield node, "its weight is not a constant"
        elif weight is not None and int(program.tensors[str(weight.target)].min()) < -127:
            yield node, "a weight of -128 is outside the narrow range [-127, 127]"


def everything_fits(program: Program) -> Found:
    """Interval arithmetic from the actual weights: every accumulator, product, shift and result fits its width."""
    ranges = integer_ranges(program.graph, program.tensors)
    for node in ranges.unproved:
        yield node, "no proof rule covers it"
    for fact in ranges.facts:
        if not fact.holds:
            yield fact.node, f"{fact.what} reaches [{fact.low}, {fact.high}], outside [{fact.least}, {fact.most}]"


_ALWAYS: tuple[Rule, ...] = (graph_is_flat, tensors_match)
RULES: dict[str, tuple[Rule, ...]] = {
    "float": (*_ALWAYS, no_fxp_operators),
    "simulated": (*_ALWAYS, only_fake_quantizers),
    "integer": (*_ALWAYS, known_integer_operators, integer_between_borders, operand_types, everything_fits),
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
    facts = integer_ranges(program.graph, program.tensors).facts if program.stage == "integer" else ()
    rules = tuple(rule.__name__ for rule in RULES[program.stage])
    return Certificate(program.stage, program.hash, rules, tuple(asdict(fact) for fact in facts))
