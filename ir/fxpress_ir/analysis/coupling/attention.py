"""softmax(q k^T * scale + mask) v ==> heads are tied, a query's group to its key's; head dimensions are summed."""

from __future__ import annotations

import numpy as np

from .call import Call, sizes
from .ties import Axis, Value


def attention(call: Call) -> Value:
    """q [..., heads, rows, k], k [..., heads, columns, k], v [..., heads, columns, v]; with enable_gqa fewer heads of keys."""
    query, key, value = (call.value(call[name]) for name in ("query", "key", "value"))
    call.contract(query[-1], key[-1])
    columns = Axis(call.ties.tie(key[-2].labels, value[-2].labels))
    call.lose(columns.labels, "its entries are counted or compared")
    batch = [_batch(call, position) for position in range(-len(query), -2)]
    mask = call.optional("attn_mask")
    if mask is not None:
        rows_and_columns = query[-2], columns
        for position in range(-len(mask), 0):
            other = batch[position + 2] if position < -2 else rows_and_columns[position]
            if not mask[position].is_one:
                call.ties.tie(mask[position].labels, other.labels)
    made = call.produce(value[-1], None)
    return (*batch, query[-2], made)


def _batch(call: Call, position: int) -> Axis:
    """The heads, or a dimension before them: removed heads are 0 where their values are."""
    nodes = [call[name] for name in ("query", "key", "value")]
    axes = [call.value(node)[position] for node in nodes]
    wanted = sizes(nodes[0])[position]
    labels = []
    for axis, node in zip(axes, nodes, strict=True):
        found, size = axis.labels, sizes(node)[position]
        if axis.is_one and wanted != 1:
            continue
        if not isinstance(found, str) and call["enable_gqa"] and position == -3:
            found = np.repeat(found, int(wanted) // int(size))
        labels.append(found)
    return Axis(call.ties.tie(*labels), axes[2].zero)


RULES = {"scaled_dot_product_attention": attention}
