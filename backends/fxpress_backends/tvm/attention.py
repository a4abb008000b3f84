"""attention and softmax ==> a group each, over rows; an image, whose last dimension is not its channels, is moved to rows before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fxpress_ir.dyadic import saturation_bounds
from fxpress_ir.ops import KEPT_BITS, LEAST_SCORE, RECIPROCAL_TABLE, Interval, arguments, prove_mean, prove_scores
from torch import fx

from .accumulators import Constants, emulation
from .dots import computed_products
from .draft import Draft
from .heads import joined, split
from .pack import WORD
from .physical import Buffer
from .tiles import ROWS, too_small

_TILES = {"amx": ROWS, "vnni": 12, "avx2": 6, "sdot": 5, "usdot": 6, "loops": 4, "threads": 1}
"""Queries that share a load of keys or of values: dot products need as many sums as hide their latency; a sum takes two of AVX2's 16
registers, four of NEON's 32 (where exponentials are kept less 128, those of all values beside them), and four in loops."""
_MANY_TASKS = 16
_MANY_QUERIES = 48
"""Fewer queries are not worth packing keys and values another time."""


def softmax(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    tables = {"table": draft.constant(named["table"]).astype(np.int32), "seeds": np.array(RECIPROCAL_TABLE, np.int32)}
    settings = {"bits": named["bits"], "most": torch.iinfo(node.meta["val"].dtype).max}
    draft.emit("softmax", [draft.in_rows(named["x"])], draft.rows_like(draft.stored(node)), [node], settings, tables)


def attention(draft: Draft, node: fx.Node) -> None:
    """Heads are read and written where they lie in rows of all of them; a mask and a bias are moved to rows."""
    named, (result, nodes) = arguments(node), joined(draft, node)
    heads = [split(draft, named[name]) for name in ("q", "k", "v")]
    present = [name for name in ("mask", "bias") if named[name] is not None]
    operands = [*(operand.held for operand in heads), *(draft.in_rows(named[name]) for name in present)]
    kernel, why = _kernel(draft, heads[0].buffer, heads[1].buffer)
    scores = prove_scores(node, draft.intervals).interval
    mean = prove_mean(node, draft.intervals, draft.program.tensors).interval
    settings: dict[str, Any] = {
        "scores": _rescaling(scores, named["b"], named["c"], LEAST_SCORE, 127),
        "result": _rescaling(mean, named["ob"], named["oc"], named["qmin"], named["qmax"]),
        **{name: name in present for name in ("mask", "bias")},
        "causal": named["causal"],
        "unseen": named["unseen"] if "mask" in present else "zero",
        "kept": KEPT_BITS,
        "tile": _TILES[kernel],
        "parts": _queries(heads[0].buffer) if kernel == "threads" else _parts(heads[0].buffer),
        "heads": [operand.setting for operand in (*heads, result)],
        **({} if kernel in ("loops", "threads") else {"lookup": draft.lookup}),
        **(emulation(draft) if kernel == "amx" else {}),
    }
    moves = [step for operand in heads for step in operand.nodes]

    tables: Constants = {"table": draft.constant(named["table"]).astype(np.uint8), "seeds": np.array(RECIPROCAL_TABLE, np.int32)}
    covered = [*draft.uncovered(moves, node), *nodes[1:]]
    draft.emit(f"attention_{kernel}", operands, result.held, covered, settings, tables, why, owner=node)


def _kernel(draft: Draft, queries: Buffer, keys: Buffer) -> tuple[str, str]:
    """What the kernel is called after ``attention_``, and why it is no faster one."""
    if draft.words_of_threads:
        return "threads", ""
    kind, slow = computed_products(draft, queries, keys)
    if kind != "vnni" or not draft.tiles:
        return kind, slow
    count, depth = queries.outer[-1], keys.logical_channels
    small = too_small(count if isinstance(count, int) else ROWS, -(-depth // WORD))
    return ("vnni", small) if small else ("amx", "")


def _rescaling(x: Interval, b: int, c: int, qmin: int, qmax: int) -> dict[str, Any]:
    """b, the shift and the range; the bounds that x is clamped to where a product would not fit 32 bits."""
    settings: dict[str, Any] = {"b": b, "shift": c, "qmin": qmin, "qmax": qmax}
    if int(x.magnitude) * b + (1 << c) >= 1 << 31:
        settings["bounds"] = [int(bound[0]) for bound in saturation_bounds(np.array([b]), c, qmin, qmax)]
    return settings


def _queries(q: Buffer) -> int:
    """How many tasks of one query a head has; 64 of some where their number is symbolic."""
    count = q.outer[-1]
    return count if isinstance(count, int) else 64


def _parts(q: Buffer) -> int:
    """Into how many tasks a head is split, so that few heads occupy many threads; a symbolic dimension counts as 1."""
    *heads, queries = q.outer
    known = [size for size in (q.lead, *heads) if isinstance(size, int)]
    wanted = -(-_MANY_TASKS // int(np.prod(known)))
    return max(1, min(4, wanted, queries // _MANY_QUERIES)) if isinstance(queries, int) else 1
