"""y = op_(x) ==> y = op(x), where no live view of x could tell the difference; assertions ==> nothing."""

from __future__ import annotations

import re

import torch
from torch import fx

from .analysis.aliases import base, shares_memory
from .errors import CaptureError
from .ops import SIZE_OPERATORS
from .propagate import fake_mode, propagated

_ASSERTIONS = re.compile(r"_assert|sym_constrain_range")
_WAY_ON = "use the operator that is not in place"


def drop_assertions(graph: fx.Graph) -> None:
    """Erase the run-time assertions that export leaves; a program checks its inputs itself."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and _ASSERTIONS.search(str(node.target)):
            graph.erase_node(node)


def make_functional(graph: fx.Graph) -> None:
    """``y = op_(x)`` becomes ``y = op(x)`` and later readers of x read y, after a check that no view of x is alive.

    Raises:
        CaptureError: the write reaches an input, a weight, or a value that is read later through another view; the
            operator has no form that is not in place, or one of another dtype.
    """
    order, mode = {node: position for position, node in enumerate(graph.nodes)}, fake_mode(graph)
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        where = node.meta.get("source", node.name)
        name = schema.name.split("::")[1]
        functional = getattr(getattr(torch.ops.aten, name.removesuffix("_"), None), schema.overload_name or "default", None)
        written = node.args[0] if node.args else None
        if not name.endswith("_") or functional is None or not isinstance(written, fx.Node):
            raise CaptureError(f"{node.target} has no functional form", where=where, way_on=_WAY_ON)
        if base(written).op != "call_function":
            raise CaptureError(f"{node.target} writes to an input or a weight", where=where, way_on="write to a clone")
        if _reads_stale(written, node, order):
            raise CaptureError(f"{node.target}: the tensor and a view of it are both used after the write", where=where, way_on=_WAY_ON)
        node.target = functional
        if propagated(node, mode).dtype != written.meta["val"].dtype:
            raise CaptureError(f"{name} rounds its result to {written.meta['val'].dtype}", where=where, way_on=_WAY_ON)
        for user in [user for user in written.users if order[user] > order[node]]:
            user.replace_input_with(written, node)


def _reads_stale(written: fx.Node, write: fx.Node, order: dict[fx.Node, int]) -> bool:
    """After the write, its memory is read through another value than the one that was written (whose readers move on)."""
    aliases = [base(written)]
    for alias in aliases:
        moves_on = alias is written
        readers = [user for user in alias.users if user is not write and user.target not in SIZE_OPERATORS]
        if not moves_on and any(order[user] > order[write] for user in readers):
            return True
        aliases += [user for user in readers if shares_memory(user) and not (moves_on and order[user] > order[write])]
    return False
