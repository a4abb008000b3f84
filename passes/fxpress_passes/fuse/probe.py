"""program, nodes ==> a module that gives their values and computes nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fxpress_ir import Program
from fxpress_ir.analysis.blocks import Block
from fxpress_ir.ops import arguments
from torch import Tensor, fx

_CONVOLUTION = "conv"


def probe(program: Program, names: Sequence[str], *, without: Block | None = None) -> fx.GraphModule:
    """Takes the program's inputs, returns the tuple of the nodes' values; its tensors are the program's own, without gradients.

    Args:
        names: of nodes.
        without: a block of the program that is left out, so that what reads its output, and a name of it, gets its input.
    """
    graph, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.graph_copy(program.graph, nodes)
    found = {node.name: copied for node, copied in nodes.items()}
    if without is not None:
        found[without.output.name] = nodes[without.input]
        nodes[without.output].replace_all_uses_with(nodes[without.input])
    graph.output(tuple(found[name] for name in names))
    graph.eliminate_dead_code()
    return fx.GraphModule({name: tensor.detach() for name, tensor in program.tensors.items()}, graph, class_name="Probe")


def features(block: Block) -> int:
    """The dimension of a block's stream that its layers mix: channels of images, the last one of everything else."""
    return 1 if getattr(block.layers[0].target, "_opname", "").startswith(_CONVOLUTION) else -1


def vectors(value: Tensor, dim: int) -> Tensor:
    """[..., features, ...] as rows [n, features] in float64."""
    return value.detach().movedim(dim, -1).flatten(0, -2).double()


def _constant(node: object) -> str:
    """The name of the tensor that an argument is; "" where it is missing or computed."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else ""


def tensor_readers(program: Program) -> Mapping[str, frozenset[fx.Node]]:
    """For each tensor what reads it, through whichever node."""
    found: dict[str, set[fx.Node]] = {}
    for node in program.graph.find_nodes(op="get_attr"):
        found.setdefault(str(node.target), set()).update(node.users)
    return {name: frozenset(users) for name, users in found.items()}


def weights(block: Block) -> Iterator[tuple[fx.Node, str, str]]:
    """Each layer of a block with the names of its weight and bias; "" for what is none or is computed."""
    for layer in block.layers:
        named = arguments(layer)
        yield layer, _constant(named["weight"]), _constant(named["bias"])
