"""How inputs and outputs nest ==> the same nesting in tuples, lists and dicts; other containers become tuples.

``torch.utils._pytree.treespec_loads`` imports the modules that a ``defaultdict`` or an enum in the text names.
"""

from __future__ import annotations

import json
import re
from typing import Any

_PROTOCOL = 1
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_SEQUENCES = {"builtins.tuple", "builtins.list"}
_DICTS = {"builtins.dict", "collections.OrderedDict"}
_KEY = re.compile(r"[\w./: -]{0,200}", re.ASCII)


def tree(text: str) -> str:
    """The nesting, written anew.

    Raises:
        ValueError: it is no nesting that torch.export writes.
    """
    data = json.loads(text)
    if not isinstance(data, list) or len(data) != 2 or data[0] != _PROTOCOL:
        raise ValueError("is no tree of inputs or outputs")
    return json.dumps([_PROTOCOL, _node(data[1])])


def keywords(text: str) -> list[str]:
    """The names of the keyword arguments in a nesting of inputs that `tree` wrote: they become names in generated code."""
    top = json.loads(text)[1]["children_spec"]
    if len(top) != 2 or top[1]["type"] not in _DICTS:
        return []
    found: list[str] = json.loads(top[1]["context"])
    return found


def _node(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or data.keys() != _LEAF.keys() or not isinstance(data["children_spec"], list):
        raise ValueError("is no tree of inputs or outputs")
    children = [_node(child) for child in data["children_spec"]]
    if data["type"] is None:
        if children:
            raise ValueError("is no tree of inputs or outputs")
        return _LEAF
    if data["type"] in _DICTS:
        return {"type": data["type"], "context": json.dumps(_keys(data["context"], len(children))), "children_spec": children}
    kind = data["type"] if data["type"] in _SEQUENCES else "builtins.tuple"
    return {"type": kind, "context": "null", "children_spec": children}


def _keys(context: Any, count: int) -> list[str | int]:
    keys = json.loads(context) if isinstance(context, str) else None
    if not isinstance(keys, list) or len(keys) != count:
        raise ValueError("holds a dict without its keys")
    for key in keys:
        if not isinstance(key, (str, int)) or (isinstance(key, str) and _KEY.fullmatch(key) is None):
            raise ValueError(f"holds a dict with the key {str(key)[:40]!r}")
    return keys
