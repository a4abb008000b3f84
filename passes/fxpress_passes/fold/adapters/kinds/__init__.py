"""The table of kinds: the name in a folder ==> its tensors, its formula, its source."""

from __future__ import annotations

from ..layer import Kind
from . import compeft, from_base, kept, lora, low_rank, orthogonal, products, shared, sparse

KINDS: dict[str, Kind] = {
    **lora.KINDS,
    **low_rank.KINDS,
    **products.KINDS,
    **orthogonal.KINDS,
    **shared.KINDS,
    **sparse.KINDS,
    **from_base.KINDS,
    **kept.KINDS,
    **compeft.KINDS,
}
