"""A weight that others read, too ==> a tensor of its own for the layers that quantise it, so that a change of it is theirs alone."""

from __future__ import annotations

from fxpress_ir import Program
from fxpress_ir.ops import arguments

from .precision import weighted_layers
from .recognize import recognize


def with_own_weights(program: Program) -> Program:
    """The same program where nothing is shared; values are, not copied.

    An embedding that is also the weight of the last layer keeps its own precision when the layer is quantised.
    """
    layers = weighted_layers(recognize(program.graph))
    shared = dict.fromkeys(
        str(node.target) for node in program.graph.nodes if node.op == "get_attr" and any(user.name not in layers for user in node.users)
    )
    edit, made = program.edit(), dict[str, str]()
    for layer in layers.values():
        name = str(arguments(layer)["weight"].target)
        if name not in shared:
            continue
        here = edit.here(layer)
        with edit.graph.inserting_before(here):
            if name in made:
                own = edit.graph.create_node("get_attr", made[name])
                own.meta["provenance"] = made[name]
            else:
                own = edit.add_tensor(f"{name}_of_layers", program.tensors[name])
                made[name] = str(own.target)
        here.replace_input_with(arguments(here)["weight"], own)
    return edit.finish() if made else program
