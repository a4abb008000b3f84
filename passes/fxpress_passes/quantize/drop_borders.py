"""float -> quantize -> integers -> dequantize -> float ==> integers, one step of each input and output in the signature."""

from __future__ import annotations

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.errors import RefusalError
from fxpress_ir.ops import SIZE_OPERATORS, arguments
from torch import fx

from .recognize import is_float

_fxp = torch.ops.fxp
_WAY_ON = 'take it out of the program, or use io="float"'


def drop_borders(program: Program) -> Program:
    """The program without the ``fxp::quantize`` of its inputs and the ``fxp::dequantize`` of its outputs.

    An input whose range is narrower than its type is clamped to it, so that what was proved holds for all integers.
    Inputs and outputs that are no floats stay as they are.

    Raises:
        RefusalError: a float input is not quantised, or read in floats too; an output is computed in floats.
    """
    edit = program.edit()
    for node in edit.graph.find_nodes(op="placeholder"):
        if is_float(node):
            _take_steps(edit, node)
    output = edit.graph.output_node()
    ends = [_steps_of(returned, place) for place, returned in enumerate(output.args[0])]  # type: ignore[arg-type]
    output.args = (tuple(node for node, _ in ends),)
    edit.output_scales = tuple(scale for _, scale in ends)
    return edit.finish()


def _take_steps(edit: Edit, node: fx.Node) -> None:
    where = f"to-integer, input {node.name!r}"
    borders = [user for user in node.users if user.target is _fxp.quantize.default]
    in_floats = [user for user in node.users if user not in borders and user.target not in SIZE_OPERATORS]
    if in_floats:
        reader = "it is returned" if in_floats[0].op == "output" else f"{in_floats[0].name} reads it"
        raise RefusalError(f"{reader} in floats", where=where, way_on=_WAY_ON)
    if not borders:
        raise RefusalError("no operator reads it quantised", where=where, way_on=_WAY_ON)
    grids = {border.args[1:]: arguments(border) for border in borders}
    if len(grids) > 1:
        first, second = (named["scale"] for named in list(grids.values())[:2])
        raise RefusalError(f"it is quantised in steps of {first} and of {second}", where=where, way_on='use one, or io="float"')
    (named,) = grids.values()
    dtype, bounds = named["dtype"], (named["qmin"], named["qmax"])
    edit.take_steps(node, dtype, named["scale"])
    held = node
    if bounds != (torch.iinfo(dtype).min, torch.iinfo(dtype).max):
        with edit.graph.inserting_before(borders[0]):
            twice = edit.add_tensor(f"{node.name}.multiplier", torch.tensor([2], dtype=torch.int32))
            held = edit.call(_fxp.requantize.default, node, twice, 1, *bounds, 1, dtype, like=node, name=f"{node.name}_held")
    for border in borders:
        edit.replace(border, held)


def _steps_of(returned: fx.Node, place: int) -> tuple[fx.Node, float | None]:
    """What to return in place of a value, and the real number that one of its steps is."""
    if returned.target is _fxp.dequantize.default:
        named = arguments(returned)
        return named["q"], named["scale"]
    if is_float(returned):
        raise RefusalError(f"{returned.name} computes it in floats", where=f"to-integer, output {place}", way_on=_WAY_ON)
    return returned, None
