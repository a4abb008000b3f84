"""Program, sizes ==> of each value the elements that depend on nothing but the first position of the ids."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.sizes import concrete, symbols
from fxpress_ir.ops import SHAPE_OPERATORS
from fxpress_ir.signature import Dimension
from torch import Tensor, fx
from torch.fx.node import map_arg

from .first_rules import RULES, Known

_aten = torch.ops.aten
_MOVES = SHAPE_OPERATORS | {_aten.cat.default, _aten.chunk.default, _aten.split.Tensor, _aten.split_with_sizes.default, _aten.split.sizes}


def first_only(program: Program, ids: fx.Node | None, sizes: Mapping[str, int]) -> dict[fx.Node, Tensor]:
    """For each tensor of the program at some sizes, bool of its shape: the element depends on ``ids[:, 0]`` of its row alone.

    Nothing is known of what operators make that are not known here. The rows of a batch are not told apart: of operators that
    sum over rows, data have to show whether it matters.

    Args:
        program: in the float stage, attention written out.
        ids: the input whose first position counts; None: nothing but constants.
        sizes: the value of each symbol.
    """
    walk = _Walk(program, ids, sizes)
    return {node: known.first for node in program.graph.nodes if (known := walk.visit(node)) is not None}


def known_first(program: Program, ids: fx.Node | None) -> list[fx.Node]:
    """Values [batch, positions, channels], float32, whose first position depends on the first token alone, and no other position does.

    Followed at the sizes that were captured and at the least ones above 1.
    """
    least = {name: max(2, size) for name, size in least_sizes(program).items()}
    examples = symbols(node.meta["val"] for node in program.placeholders())
    captured = {name: least[name] if example is None else example.size for name, example in examples.items()}
    found: dict[fx.Node, bool] = {}
    for sizes in (captured, least):
        for node, first in first_only(program, ids, sizes).items():
            fits = first.dim() == 3 and bool(first[:, 0].all()) and not bool(first[:, 1:].all(-1).any())
            found[node] = found.get(node, True) and fits
    return [node for node, fits in found.items() if fits and node.op == "call_function" and node.meta["val"].dtype == torch.float32]


def least_sizes(program: Program) -> dict[str, int]:
    """The least value of each symbol, as the signature has it."""
    return {
        str(size.node.expr): wanted.minimum
        for spec, node in zip(program.inputs, program.placeholders(), strict=True)
        for wanted, size in zip(spec.shape, node.meta["val"].shape, strict=True)
        if isinstance(wanted, Dimension)
    }


class _Walk:
    def __init__(self, program: Program, ids: fx.Node | None, sizes: Mapping[str, int]) -> None:
        self._program, self._ids, self._sizes = program, ids, sizes
        self._known: dict[fx.Node, Any] = {}

    def visit(self, node: fx.Node) -> Known | None:
        """What is known of a node's tensor; None where it has none or several."""
        if node.op == "output" or not isinstance(node.meta.get("val"), (Tensor, tuple, list)):
            return None
        found = self._known[node] = self._of(node)
        return found if isinstance(found, Known) else None

    def _of(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            tensor = self._program.tensors[str(node.target)].detach()
            return Known(torch.ones(tensor.shape, dtype=torch.bool), tensor)
        if node.op == "placeholder":
            first = self._nothing(node.meta["val"])
            if node is self._ids:
                first[:, 0] = True
            return Known(first)
        read = [self._known[used] for used in node.all_input_nodes if used in self._known]
        if all(isinstance(known, Known) and known.value is not None for known in read):
            return self._computed(node)
        if node.target in _MOVES or node.target is operator.getitem:
            return self._moved(node)
        rule = RULES.get(node.target)
        if rule is None or not all(isinstance(known, Known) for known in read):
            return _each(node.meta["val"], lambda val: Known(self._nothing(val)))
        return rule(node, self._known.__getitem__, list(self._nothing(node.meta["val"]).shape))

    def _computed(self, node: fx.Node) -> Any:
        """What no input reaches; what is drawn anew each time is not known."""
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return _each(node.meta["val"], lambda val: Known(self._nothing(val)))
        result = self._call(node, lambda known: known.value)
        return _each(result, lambda tensor: Known(torch.ones(tensor.shape, dtype=torch.bool), tensor))

    def _moved(self, node: fx.Node) -> Any:
        return _each(self._call(node, lambda known: known.first), Known)

    def _call(self, node: fx.Node, part: Callable[[Known], Any]) -> Any:
        """The operator on something that is known of its operands."""

        def operand(used: fx.Node) -> Any:
            return _each(self._known[used], part) if used in self._known else concrete(used.meta["val"], self._sizes)

        args, kwargs = map_arg((node.args, node.kwargs), operand)
        args, kwargs = torch.utils._pytree.tree_map(lambda value: concrete(value, self._sizes), (args, kwargs))
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _nothing(self, val: Tensor) -> Tensor:
        return torch.zeros([concrete(size, self._sizes) for size in val.shape], dtype=torch.bool)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of a value, or of each of several."""
    return [change(part) for part in value] if isinstance(value, (tuple, list)) else change(value)
