"""recognised graph ==> the values that normalisations, residual sums and rotations read, which keep 16 bits (I-BERT, I-ViT)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fxpress_ir.analysis.hadamard import is_hadamard
from torch import Tensor, fx

from .recognize import Recognition
from .recognized import PASSES_ON, Recognized
from .sharing import shared

_JOINS = frozenset({*PASSES_ON, "pad", "add", "concat", "table"})
"""Kinds that keep their operands in the stream."""

BYTES_ONLY = frozenset({"attention", "matmul", "softmax"})
"""Kinds whose arithmetic is proved for 8-bit operands."""


def rotations(recognition: Recognition, tensors: Mapping[str, Tensor]) -> frozenset[fx.Node]:
    """The layers that multiply by a Hadamard matrix: in 8 bits their inputs would be as rough as without them."""
    layers = {node: what.weight for node, what in recognition.found.items() if isinstance(what, Recognized) and what.kind == "weighted"}
    return frozenset(node for node, weight in layers.items() if weight is not None and is_hadamard(tensors[str(weight.target)]))


def stream(recognition: Recognition, islands: Mapping[fx.Node, str], fine: frozenset[fx.Node] = frozenset()) -> frozenset[fx.Node]:
    """The values of 16 bits: what a normalisation or a rotation reads, and what a sum, a concatenation or a move in the stream reads.

    A normalised value that leaves the program is among them, too. `fine` has the layers that read 16 bits.
    """
    found = {node: what for node, what in recognition.found.items() if isinstance(what, Recognized) and node not in islands}
    groups = shared(recognition, islands)
    members: set[fx.Node] = set()
    left = [operand for node, what in found.items() if what.kind == "normalize" or node in fine for operand in what.operands]
    left += [node for node, what in found.items() if what.kind == "normalize" and any(user.op == "output" for user in node.users)]
    while left:
        node = left.pop()
        if node in members:
            continue
        members.add(node)
        what = found.get(node)
        left += what.operands if what is not None and what.kind in _JOINS else ()
        left += _beside(node, groups)
    return frozenset(members)


def _beside(node: fx.Node, groups: Iterable[list[fx.Node]]) -> list[fx.Node]:
    """The values that share a scale with `node`."""
    return [other for group in groups if node in group for other in group]


def reads_short(node: fx.Node, what: Recognized, members: frozenset[fx.Node], fine: frozenset[fx.Node] = frozenset()) -> bool:
    """The node takes its operands in 16 bits."""
    return what.kind == "normalize" or node in fine or (what.kind in _JOINS and node in members)
