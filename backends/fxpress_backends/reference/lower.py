"""integer Program ==> graph.json + tensors.safetensors: the portable form, byte for byte the same every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from fxpress_ir import Program
from fxpress_ir.portable import graph_data, tensor_data
from safetensors.numpy import save_file

from .run import GRAPH, TENSORS


def write(program: Program, folder: Path) -> dict[str, Any]:
    """Write the payload; returns how often each operator occurs."""
    graph = graph_data(program)
    (folder / GRAPH).write_text(json.dumps(graph, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    save_file(tensor_data(program), folder / TENSORS)
    return {"operators": dict(Counter(node["operator"] for node in graph["nodes"]))}
