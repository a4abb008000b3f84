"""YAML ==> plain values that know their line and their path, so that an error can point at the offending key."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml
from fxpress_ir.errors import PipelineError

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""A float in every language but YAML 1.1."""
_REFUSED = {yaml.AliasToken: "an alias", yaml.AnchorToken: "an anchor", yaml.TagToken: "a tag"}
_MOST = 1 << 20


@dataclass(frozen=True)
class Located:
    """A value of a YAML file: None, bool, int, float, str, a list of values, or a dict of them by name."""

    value: Any
    path: str
    file: str
    line: int

    def error(self, what: str, way_on: str) -> PipelineError:
        """An error that points here."""
        where = f"{self.file}:{self.line}"
        return PipelineError(what, where=f"{where}: {self.path}" if self.path else where, way_on=way_on)

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {name: item.plain() for name, item in self.value.items()}
        return [item.plain() for item in self.value] if isinstance(self.value, list) else self.value

    def mapping(self, known: Iterable[str], what: str = "key") -> dict[str, Located]:
        """The values by name, all of them known.

        Raises:
            PipelineError: no mapping; an unknown name, with the nearest known one.
        """
        names = list(known)
        if not isinstance(self.value, dict):
            raise self.error(f"is {_kind(self.value)}", f"write name: value, with {', '.join(names)}")
        for name, item in self.value.items():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                hint = f"known: {', '.join(names)}" if names else "it has none"
                raise item.error(f"unknown {what}", f"did you mean {near[0]!r}?" if near else hint)
        found: dict[str, Located] = self.value
        return found

    def items(self) -> list[Located]:
        """The list's items; a lone value stands for a list of one, nothing for an empty list."""
        return self.value if isinstance(self.value, list) else [] if self.value is None else [self]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.error(f"is {_kind(self.value)}", "write text, in quotes where YAML reads it otherwise")
        return self.value

    def integer(self, least: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < least:
            raise self.error(f"is {_kind(self.value)}", f"write a whole number, {least} or more")
        return self.value

    def number(self) -> float:
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool):
            raise self.error(f"is {_kind(self.value)}", "write a number")
        return float(self.value)


def read_yaml(text: str, file: str) -> Located:
    """The one document of `text`; no tag, anchor or alias is taken, so nothing is built and nothing grows.

    Raises:
        PipelineError: no YAML; empty; a key twice; a tag, anchor or alias; a number that is not finite.
    """
    try:
        if len(text) > _MOST:
            raise PipelineError(f"is longer than {_MOST} characters", where=file, way_on="a recipe is short")
        for token in yaml.scan(text, yaml.SafeLoader):
            if type(token) in _REFUSED:
                what = f"holds {_REFUSED[type(token)]}"
                raise PipelineError(what, where=f"{file}:{token.start_mark.line + 1}", way_on="write the value out")
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None:
            raise PipelineError("is empty", where=file, way_on="write version: 1 and a pipeline")
        return _located(root, "", file, root.start_mark.line + 1)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PipelineError(f"is no YAML: {error.problem}", where=f"{file}{line}", way_on="mind indentation and quotes") from error
    except (yaml.YAMLError, RecursionError) as error:
        first = str(error).split("\n")[0] or type(error).__name__
        raise PipelineError(f"is no YAML: {first}", where=file, way_on="mind indentation and quotes") from error


def _located(node: yaml.Node, path: str, file: str, line: int) -> Located:
    if isinstance(node, yaml.SequenceNode):
        items = [_located(item, f"{path}[{place}]", file, item.start_mark.line + 1) for place, item in enumerate(node.value)]
        return Located(items, path, file, line)
    if isinstance(node, yaml.ScalarNode):
        return Located(_scalar(node, Located(None, path, file, line)), path, file, line)
    found: dict[str, Located] = {}
    for key, item in node.value:
        name, line_of_key = str(key.value), key.start_mark.line + 1
        place = Located(None, f"{path}.{name}" if path else name, file, line_of_key)
        if not isinstance(key, yaml.ScalarNode):
            raise place.error("a key is no text", "write name: value")
        if name in found:
            raise place.error(f"is given twice, first in line {found[name].line}", "keep one")
        found[name] = _located(item, place.path, file, line_of_key)
    return Located(found, path, file, line)


def _scalar(node: yaml.ScalarNode, place: Located) -> Any:
    if node.tag not in _TAGS:
        raise place.error(f"{node.value!r} is read as a {node.tag.rpartition(':')[2]}", "put it in quotes")
    if node.tag.endswith(":str"):
        return float(node.value) if node.style is None and _EXPONENT.fullmatch(node.value) else node.value
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except ValueError as error:  # a number of more digits than Python reads
        raise place.error("cannot be read", "write a shorter number") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise place.error(f"is {node.value}", "write a finite number")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else f"{value!r}"
