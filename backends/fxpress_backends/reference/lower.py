"""integer Program ==> graph.json + tensors.safetensors: the portable form, byte for byte the same every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from fxpress_ir import Program
from fxpress_ir.portable import graph_data, tensor_data
from safetensors.numpy import save_file

from .. import apart
from .run import GRAPH, TENSORS


def write(program: Program, folder: Path, *, is_sparse: bool = False) -> dict[str, Any]:
    """Write the payload; returns how often each operator occurs, and the record of tensors that are stored apart."""
    graph = graph_data(program)
    (folder / GRAPH).write_text(json.dumps(graph, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    tensors, details = tensor_data(program), {"operators": dict(Counter(node["operator"] for node in graph["nodes"]))}
    if is_sparse:
        stored = apart.worthwhile(tensors, is_sparse=True)
        details["apart"] = apart.write(stored, folder)
        tensors = {name: array for name, array in tensors.items() if name not in stored}
    save_file(tensors, folder / TENSORS)
    return details
