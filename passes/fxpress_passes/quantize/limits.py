"""recognised graph ==> the largest 16-bit code of each value that its readers' 32-bit sums allow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from fxpress_ir.errors import PassError
from torch import Tensor, fx

from .recognize import Recognition
from .recognized import Recognized
from .scales import PRODUCT_LIMIT, SHORT_LIMIT, reach_limit
from .sharing import site_of


def code_limits(
    recognition: Recognition,
    tensors: Mapping[str, Tensor],
    weight_bits: Callable[[fx.Node], int],
    readers: Collection[fx.Node] | None = None,
) -> dict[fx.Node, int]:
    """The limits that are less than all codes of 16 bits.

    Args:
        readers: those that read 16 bits; all where None.

    Raises:
        PassError: a layer sums so much that 8 bits are left.
    """
    limits: dict[fx.Node, int] = {}
    for node, what in recognition.found.items():
        if not isinstance(what, Recognized) or (readers is not None and node not in readers):
            continue
        reach = _reach(what.core or node, what, tensors, weight_bits)
        if reach < 256:
            message = f"its sums leave {reach.bit_length()} bits to its input"
            raise PassError(message, where=f"place-quantizers, node {node.name}", way_on="use activation_bits=8")
        for operand in what.operands if reach < SHORT_LIMIT else ():
            site = site_of(operand, recognition)
            limits[site] = min(limits.get(site, SHORT_LIMIT), reach)
    return limits


def _reach(core: fx.Node, what: Recognized, tensors: Mapping[str, Tensor], weight_bits: Callable[[fx.Node], int]) -> int:
    """The largest |x| whose sums a node can take in 32 bits."""
    if what.kind == "weighted":
        assert what.weight is not None
        return reach_limit(tensors[str(what.weight.target)], bits=weight_bits(core), axis=what.channel_axis)
    if what.kind == "average" and what.window is not None:
        return PRODUCT_LIMIT // (what.window.kernel[0] * what.window.kernel[1])
    if what.kind == "interpolate":
        return PRODUCT_LIMIT // (sum(what.kernel[0]) * sum(what.kernel[1]))
    return SHORT_LIMIT
