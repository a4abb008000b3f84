"""JSON of an archive ==> the same data, held field by field to torch's schema; every string has to pass its field's rule.

Loading turns names into generated code, targets into attributes of modules, sizes into sympy expressions, and imports what
trees name. So a field without a rule is refused, and guards and metadata, which nothing here needs, are dropped.
"""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from enum import IntEnum
from functools import cache
from typing import Any

from torch._export.serde import schema
from torch._export.serde.union import _Union

from ..errors import CaptureError
from .strings import RULES, metadata

AGAIN = "save it again with torch.export.save"
_DROPPED = {"ExportedProgram.guards_code", "GraphModule.metadata", "GraphModule.treespec_namedtuple_fields"}
_REFUSED = {
    "CustomObjArgument": "a custom object, which only a pickle can hold",
    "InputTokenSpec": "an operator with side effects",
    "OutputTokenSpec": "an operator with side effects",
    "LossOutputSpec": "a training graph",
    "GradientToParameterSpec": "a training graph",
    "GradientToUserInputSpec": "a training graph",
}


def held(kind: type, data: Any, where: str) -> Any:
    """The part of `data` that the schema's class `kind` knows, every value of its declared type.

    Raises:
        CaptureError: a value has another type, or a string breaks its field's rule; the message names the field.
    """
    return _value(kind, data, where, kind.__name__)


def _value(kind: Any, data: Any, where: str, field: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _value(inner[0], data, where, field)
    if origin is list and isinstance(data, list):
        return [_value(inner[0], item, where, field) for item in data]
    if origin is dict and isinstance(data, dict):
        return {_text(key, where, f"{field} key"): _value(inner[1], item, where, field) for key, item in data.items()}
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(data, dict):
        return _record(kind, data, where)
    if kind is str and isinstance(data, str):
        return _text(data, where, field)
    if kind is float and _is_float(data):
        return data
    if isinstance(kind, type) and issubclass(kind, int) and _is_integer(kind, data):
        return data
    raise CaptureError(f"{field} holds a {type(data).__name__} that torch.export would not write", where=where, way_on=AGAIN)


def _record(kind: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    if kind.__name__ in _REFUSED:
        raise CaptureError(f"holds {_REFUSED[kind.__name__]}", where=where, way_on="capture the module itself")
    if issubclass(kind, _Union) and (len(data) != 1 or data.keys() - _hints(kind).keys()):
        raise CaptureError(f"{kind.__name__} is none of its kinds", where=where, way_on=AGAIN)
    names = [name for name in _hints(kind) if name in data and f"{kind.__name__}.{name}" not in _DROPPED]
    if kind is schema.Node and isinstance(data.get("metadata"), dict):
        data = {**data, "metadata": metadata(data["metadata"])}
    return {name: _value(_hints(kind)[name], data[name], where, f"{kind.__name__}.{name}") for name in names}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, globalns=vars(schema))
    return {field.name: hints[field.name] for field in fields(kind)}


def _is_float(data: Any) -> bool:
    """A number, or one of the words that torch writes for what JSON lacks."""
    return (isinstance(data, (int, float)) and not isinstance(data, bool)) or data in ("Infinity", "-Infinity", "NaN")


def _is_integer(kind: type[int], data: Any) -> bool:
    if kind is bool or not isinstance(data, int) or isinstance(data, bool):
        return kind is bool and isinstance(data, bool)
    return abs(data) < 2**63 and (not issubclass(kind, IntEnum) or data in list(kind))


def _text(data: Any, where: str, field: str) -> str:
    try:
        if field not in RULES:
            raise ValueError("stands where this fxpress knows no text")
        return RULES[field](data)
    except (ValueError, RecursionError) as error:
        shown = data if len(data) <= 60 else f"{data[:57]}..."
        raise CaptureError(f"{field} {shown!r} {error}", where=where, way_on=AGAIN) from error
