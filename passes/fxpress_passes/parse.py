"""``fold-batch-norm, quantize-dyadic{weight_bits=8}`` ==> passes."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from fxpress_ir.errors import PipelineError

from .contract import Pass, options_of

_STRING = r'"(?:[^"\\]|\\.)*"'
_PASS = re.compile(rf"""\s*(?P<name>[A-Za-z][\w.-]*)\s*(?:\{{(?P<options>(?:[^{{}}"]|{_STRING})*)\}})?\s*(?:,|$)""")
_OPTION = re.compile(rf"""\s*(?P<name>\w+)\s*=\s*(?P<value>{_STRING}|\[(?:[^\]"]|{_STRING})*\]|[^,"\[\]]+?)\s*(?:,|$)""")


def parse(text: str, known: Sequence[type[Pass]]) -> tuple[Pass, ...]:
    """The passes that `text` names, with their options; values are JSON, bare words are strings.

    Raises:
        PipelineError: syntax, an unknown pass or option, a value of the wrong type; with the nearest known name.
    """
    passes, position = [], 0
    while position < len(text.rstrip()):
        match = _PASS.match(text, position)
        if match is None:
            raise PipelineError(
                f"cannot read {text[position:].strip()[:40]!r}", where="pipeline", way_on="write name{option=value}, name, ..."
            )
        kind = find(match["name"], known)
        passes.append(build(kind, _options(match["options"] or "", kind)))
        position = match.end()
    return tuple(passes)


def find(name: str, known: Iterable[type[Pass]]) -> type[Pass]:
    """The pass of this name."""
    by_name = {kind.name: kind for kind in known}
    if name not in by_name:
        raise PipelineError(f"unknown pass {name!r}", where="pipeline", way_on=_nearest(name, by_name, "`fxpress passes` lists them"))
    return by_name[name]


def build(kind: type[Pass], options: dict[str, Any]) -> Pass:
    """The pass with these options, each of the type of its default; a list stands for a tuple."""
    defaults = options_of(kind)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    for name, value in options.items():
        if name not in defaults:
            hint = "it has none" if not defaults else f"it has {', '.join(defaults)}"
            raise PipelineError(f"unknown option {name!r}", where=kind.name, way_on=_nearest(name, defaults, hint))
        wanted = type(defaults[name])
        fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
        if not fits and not (wanted is float and isinstance(value, int) and not isinstance(value, bool)):
            raise PipelineError(
                f"{name}={json.dumps(value)} is no {wanted.__name__}", where=kind.name, way_on=f"e.g. {name}={json.dumps(defaults[name])}"
            )
    return kind(**options)


def _options(text: str, kind: type[Pass]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    position = 0
    while position < len(text.rstrip()):
        match = _OPTION.match(text, position)
        if match is None:
            raise PipelineError(f"cannot read option {text[position:].strip()[:40]!r}", where=kind.name, way_on="write name=value, ...")
        if match["name"] in options:
            raise PipelineError(f"option {match['name']!r} is given twice", where=kind.name, way_on="keep one")
        options[match["name"]] = _value(match["value"])
        position = match.end()
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # not JSON, or a number of more digits than Python reads
        return text


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise
