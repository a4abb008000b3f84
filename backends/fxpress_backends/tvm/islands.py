"""mixed Program ==> its nodes in an order in which float islands are single steps between the integer ones.

Nodes are ranked: an island reads ranks below its own, and so do the integers after it. All islands of a rank are one step, so
that there are no more of them than floats and integers alternate along a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fxpress_ir import Program
from torch import fx

from fxpress_backends.reexport import Part, is_size, island_nodes, part, whole

ENTRY = "main"
"""The function of a library that runs a program."""


@dataclass(frozen=True, eq=False)
class Island:
    """A step of floats: the name of its function, its nodes in the program's order, and the same as a module."""

    name: str
    nodes: tuple[fx.Node, ...]
    part: Part


def steps(program: Program) -> Iterator[fx.Node | Island]:
    """Every node, those of islands together; an integer program's nodes as they stand."""
    inside = island_nodes(program)
    ranks = _ranks(program, inside)
    for rank in range(max(ranks.values()) + 1):
        nodes = tuple(node for node in program.graph.nodes if ranks[node] == rank and (rank % 2 == 0 or node in inside))
        if rank % 2 == 0:
            yield from nodes
        elif nodes:
            yield Island(f"island{rank // 2 + 1}", nodes, part(program, frozenset(nodes)))


def float_parts(program: Program) -> dict[str, Part]:
    """What of a program computes in floats, by the name of its function: all of a float program, islands of a mixed one."""
    if program.stage == "float":
        return {ENTRY: whole(program)}
    return {step.name: step.part for step in steps(program) if isinstance(step, Island)}


def _ranks(program: Program, inside: frozenset[fx.Node]) -> dict[fx.Node, int]:
    """Odd for islands, even for integers; sizes, which either may compute, have that of what they are sizes of."""
    ranks: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        rank = max((ranks[used] for used in node.all_input_nodes), default=0)
        fits = is_size(node) or rank % 2 == (node in inside)
        ranks[node] = rank if fits else rank + 1
    return ranks
