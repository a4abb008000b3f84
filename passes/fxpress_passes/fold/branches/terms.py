"""a(x) + y + b(x) ==> (a(x) + b(x)) + y: terms of one sum brought together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import arguments
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from .composition import is_value

_aten = torch.ops.aten
Fits = Callable[[fx.Node, Collection[fx.Node]], bool]
"""Takes a sum of two terms and the nodes that will read them no more."""


def gather(edit: Edit, fits: Fits) -> None:
    """Put next to each other the terms of every sum of three or more of which `fits` takes the sum of two."""
    for node in reversed(list(edit.graph.find_nodes(op="call_function", target=_aten.add.Tensor))):
        if not node._erased and _is_sum(node) and not any(_is_sum(user) for user in node.users if len(node.users) == 1):
            paired = set[fx.Node]()
            while not fits(node, ()) and (pair := _gathered(edit, node, fits, paired)) is not None:
                paired.add(pair)


def _gathered(edit: Edit, root: fx.Node, fits: Fits, paired: set[fx.Node]) -> fx.Node | None:
    """The new sum of two terms that fit, in the place of one of them."""
    terms = _terms(root, paired)
    for (reader, first), (later, second) in combinations(terms, 2):
        if reader is later or not _alike(first, second, root):
            continue
        reader, first, later, second = (reader, first, later, second) if reader < later else (later, second, reader, first)
        with edit.graph.inserting_before(later):
            pair = edit.call(_aten.add.Tensor, first, second, like=later)
        pair.meta["val"] = root.meta["val"]
        if fits(pair, (reader, later)):
            later.replace_input_with(second, pair)
            (other,) = (used for used in reader.all_input_nodes if used is not first)
            edit.replace(reader, other)
            return pair
        edit.graph.erase_node(pair)
    return None


def _terms(root: fx.Node, paired: set[fx.Node]) -> list[tuple[fx.Node, fx.Node]]:
    """(the addition that reads it, term) of a sum, whose inner additions nothing else reads."""
    found, todo = list[tuple[fx.Node, fx.Node]](), [root]
    while todo:
        addition = todo.pop()
        for used in addition.all_input_nodes:
            inner = _is_sum(used) and len(used.users) == 1 and used not in paired
            found += [] if inner else [(addition, used)]
            todo += [used] if inner else []
    return found


def _is_sum(node: fx.Node) -> bool:
    """Adds two different values of one shape, as they are."""
    if node.target is not _aten.add.Tensor or len(node.all_input_nodes) != 2 or arguments(node)["alpha"] != 1:
        return False
    return all(is_value(used) and _alike(used, used, node) for used in node.all_input_nodes)


def _alike(first: fx.Node, second: fx.Node, whole: fx.Node) -> bool:
    shapes = [node.meta["val"].shape for node in (first, second, whole)]
    same = len({len(shape) for shape in shapes}) == 1
    return same and all(statically_known_true(a == c) and statically_known_true(b == c) for a, b, c in zip(*shapes, strict=True))
